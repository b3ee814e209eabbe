//! The options of the load generator, from flags to a form that is ready for use.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use lexopt::{Arg, Parser, ValueExt as _};

use crate::tokens::Api;

/// What bad usage is answered with.
pub const USAGE: &str =
    "usage: bench-load --url http://127.0.0.1:PORT --api ollama|openai --model NAME
    --connections N (--requests M | --seconds S) [--stream] [--embed INPUTS] [--image-bytes B]
    [--rate R] [--ramp SECONDS] [--late-ms 100] [--check] [--key KEY] [--conversations N]
    [--from-connect]";

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// What stands before each path; mostly empty.
    pub prefix: String,
    /// Which API is spoken.
    pub api: Api,
    /// The model of each request.
    pub model: String,
    /// Connections at a time.
    pub connections: u32,
    /// Requests in all.
    pub requests: Option<u64>,
    /// For how long requests are begun.
    pub seconds: Option<f64>,
    /// Streams are asked for.
    pub stream: bool,
    /// Vectors are asked for, for so many inputs.
    pub embed: Option<u32>,
    /// Each request carries an image of so many bytes.
    pub image_bytes: Option<usize>,
    /// Requests a second, whatever the answers take.
    pub rate: Option<f64>,
    /// The first requests of the connections are spread over so many seconds.
    pub ramp: f64,
    /// A token that was under way for longer is late.
    pub late_ms: f64,
    /// The order and text of tokens is checked as well.
    pub check: bool,
    /// The key of each request.
    pub key: Option<String>,
    /// How many different prompts there are; each connection sends one after the other.
    pub conversations: u32,
    /// Times count from the opening of the connection, where a request needs one.
    pub from_connect: bool,
}

/// Limits of what is accepted: mistakes in a script, not loads that anybody means.
const MAX_CONNECTIONS: u32 = 100_000;
const MAX_CONVERSATIONS: u32 = 1000;
const MAX_IMAGE_BYTES: usize = 1 << 30;
const MAX_INPUTS: u32 = 1_000_000;

impl Options {
    /// Reads the flags.
    pub fn parse(mut flags: Parser) -> Result<Self, String> {
        let mut options = Self::default();
        let (mut url, mut api) = (None, None);
        while let Some(arg) = flags.next().map_err(|error| error.to_string())? {
            let Arg::Long(name) = arg else { return Err(arg.unexpected().to_string()) };
            let name = name.to_owned();
            let it = &mut options;
            match name.as_str() {
                "stream" => it.stream = true,
                "check" => it.check = true,
                "from-connect" => it.from_connect = true,
                "key" => it.key = Some(text(&mut flags)?),
                "conversations" => it.conversations = number(&mut flags, &name)?,
                "url" => url = Some(text(&mut flags)?),
                "api" => api = Some(text(&mut flags)?),
                "model" => it.model = text(&mut flags)?,
                "connections" => it.connections = number(&mut flags, &name)?,
                "requests" => it.requests = Some(number(&mut flags, &name)?),
                "seconds" => it.seconds = Some(number(&mut flags, &name)?),
                "embed" => it.embed = Some(number(&mut flags, &name)?),
                "image-bytes" => it.image_bytes = Some(number(&mut flags, &name)?),
                "rate" => it.rate = Some(number(&mut flags, &name)?),
                "ramp" => it.ramp = number(&mut flags, &name)?,
                "late-ms" => it.late_ms = number(&mut flags, &name)?,
                _ => return Err(format!("--{name} is no option")),
            }
        }
        options.to(&url.ok_or("--url is missing")?)?;
        options.api = match api.as_deref() {
            Some("ollama") => Api::Ollama,
            Some("openai") => Api::OpenAi,
            _ => return Err("--api is ollama or openai".into()),
        };
        options.check()?;
        Ok(options)
    }

    fn to(&mut self, url: &str) -> Result<(), String> {
        let rest = url.strip_prefix("http://").ok_or("--url begins with http://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let found = port.to_socket_addrs().ok().and_then(|mut all| all.next());
        self.address = found.ok_or_else(|| format!("{host} is no address"))?;
        self.host = host.to_owned();
        self.prefix = path.trim_end_matches('/').to_owned();
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let positive = |number: Option<f64>| number.is_none_or(|it| it > 0.0 && it <= 1e9);
        let rules = [
            (!self.model.is_empty(), "--model is missing"),
            (
                self.requests.is_some() || self.seconds.is_some(),
                "--requests or --seconds is missing",
            ),
            ((1..=MAX_CONNECTIONS).contains(&self.connections), "--connections is out of range"),
            (
                (1..=MAX_CONVERSATIONS).contains(&self.conversations),
                "--conversations is out of range",
            ),
            (
                self.key.as_ref().is_none_or(|it| it.bytes().all(|byte| byte.is_ascii_graphic())),
                "--key has characters that no header takes",
            ),
            (self.requests != Some(0), "--requests is out of range"),
            (positive(self.seconds), "--seconds is out of range"),
            (positive(self.rate), "--rate is out of range"),
            ((0.0..=1e6).contains(&self.ramp), "--ramp is out of range"),
            ((0.0..=1e9).contains(&self.late_ms), "--late-ms is out of range"),
            (self.embed.is_none_or(|it| (1..=MAX_INPUTS).contains(&it)), "--embed is out of range"),
            (
                self.image_bytes.is_none_or(|it| it <= MAX_IMAGE_BYTES),
                "--image-bytes is out of range",
            ),
            (self.embed.is_none() || !self.stream, "--embed does not go with --stream"),
        ];
        rules.iter().find(|(held, _)| !held).map_or(Ok(()), |(_, told)| Err((*told).into()))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 80)),
            host: String::new(),
            prefix: String::new(),
            api: Api::Ollama,
            model: String::new(),
            connections: 1,
            requests: None,
            seconds: None,
            stream: false,
            embed: None,
            image_bytes: None,
            rate: None,
            ramp: 0.0,
            late_ms: 100.0,
            check: false,
            key: None,
            conversations: 1,
            from_connect: false,
        }
    }
}

fn text(flags: &mut Parser) -> Result<String, String> {
    flags.value().and_then(|it| it.string()).map_err(|error| error.to_string())
}

fn number<T: FromStr>(flags: &mut Parser, name: &str) -> Result<T, String> {
    let text = text(flags)?;
    text.parse().map_err(|_| format!("--{name} {text} is no number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &str) -> Result<Options, String> {
        Options::parse(Parser::from_args(flags.split_whitespace()))
    }

    const LEAST: &str = "--url http://127.0.0.1:8080 --api openai --model short";

    #[test]
    fn what_is_typed_is_what_is_done() {
        let options = parse(&format!(
            "{LEAST} --connections 7 --seconds 1.5 --stream --rate 10 --ramp 2 --late-ms 5 --check"
        ));
        let options = options.expect("good usage");
        assert_eq!((options.address.port(), options.host.as_str()), (8080, "127.0.0.1:8080"));
        assert_eq!((options.connections, options.seconds), (7, Some(1.5)));
        assert_eq!((options.rate, options.ramp, options.late_ms), (Some(10.0), 2.0, 5.0));
        assert!(options.stream && options.check && options.api == Api::OpenAi);
        assert!(!options.from_connect && options.key.is_none() && options.conversations == 1);
        let more = "--requests 1 --from-connect --key k-1 --conversations 16";
        let more = parse(&format!("{LEAST} {more}")).expect("good usage");
        assert_eq!((more.key.as_deref(), more.conversations), (Some("k-1"), 16));
        assert!(more.from_connect);
        let prefix = parse("--url http://127.0.0.1:1/x/ --api ollama --model m --requests 1");
        assert_eq!(prefix.expect("good usage").prefix, "/x");
    }

    #[test]
    fn bad_usage_is_told() {
        for rest in [
            "",
            "--requests 0",
            "--seconds 0",
            "--seconds -1",
            "--seconds x",
            "--requests 1 --what",
            "--requests 1 x",
            "--requests 1 --connections 0",
            "--requests 1 --embed 1 --stream",
            "--requests 1 --api x",
            "--requests 1 --url 127.0.0.1:1",
            "--requests",
            "--requests 1 --rate nan",
            "--requests 1 --key k\u{e9}",
            "--requests 1 --conversations 0",
        ] {
            assert!(parse(&format!("{LEAST} {rest}")).is_err(), "{rest}");
        }
        assert!(parse("--url http://127.0.0.1:1 --api openai --requests 1").is_err());
    }
}
