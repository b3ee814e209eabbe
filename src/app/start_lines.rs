//! What a person sees when the program starts on a terminal: five lines in place of one of the log.
//!
//! Never delays a request: the server runs already, and how many models there are is waited for a second
//! at most. Asking counts as a health check does: nothing is retried, and a failure is not remembered as that of a list.
//! Invariant: the lines hold no key, whatever an upstream says.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::config::Config;
use crate::models::list::ModelList;
use crate::observe::plural;
use crate::upstream::router::Router;
use crate::upstream::{ServerSettings, Trace, Upstream};

/// How long the lines wait for the number of models.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Characters of an upstream's error that are shown.
const MAX_ERROR_CHARS: usize = 200;

/// What became of the question for the models.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Models {
    /// So many different ones, and how many upstreams have not told.
    Known(usize, usize),
    /// The first reason for which an upstream told none.
    Failed(String),
    /// No upstream has told in time.
    Late,
}

/// Who may ask, and where: what the lines need of the configuration, which the server takes.
pub struct StartLines {
    upstreams: (&'static str, String),
    keys: usize,
}

impl StartLines {
    /// Of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            upstreams: describe_upstreams(config),
            keys: config.proxy_api_keys.secrets().count(),
        }
    }

    /// For the log: the address and the upstreams, in a line.
    pub fn log_line(&self, address: SocketAddr) -> String {
        let (label, upstreams) = &self.upstreams;
        format!("listening on {address}, {label} {upstreams}")
    }

    /// For a person: a label and a text each.
    pub(super) fn lines(
        &self,
        address: SocketAddr,
        models: &Models,
    ) -> [(&'static str, String); 5] {
        let (label, upstreams) = &self.upstreams;
        [
            ("listening on", address.to_string()),
            (label, upstreams.clone()),
            ("models", describe_models(models)),
            ("who may ask", self.describe_access(address)),
            ("status page", format!("http://{}/status", to_reachable(address))),
        ]
    }

    fn describe_access(&self, address: SocketAddr) -> String {
        match self.keys {
            0 if address.ip().to_canonical().is_loopback() => {
                "every program on this machine, without a key".to_owned()
            }
            0 => "everyone who can reach this address, without a key".to_owned(),
            1 => "clients that send the key of PROXY_API_KEYS".to_owned(),
            count => format!("clients that send one of {count} keys"),
        }
    }
}

/// The addresses of the upstreams, with their names where there is a file, and what to call them.
fn describe_upstreams(config: &Config) -> (&'static str, String) {
    let address = |server: &ServerSettings| {
        let mut text = server.base_url.to_string();
        if let Some(proxy) = &server.proxy {
            text += &format!(" through the proxy {proxy} ({})", proxy.variable);
        }
        text
    };
    let named = |server: &ServerSettings| format!("{} {}", server.name, address(server));
    match &config.upstreams[..] {
        [] => ("upstream", address(&config.upstream)),
        all => ("upstreams", all.iter().map(named).collect::<Vec<_>>().join(", ")),
    }
}

fn describe_models(models: &Models) -> String {
    match models {
        Models::Known(count, 0) => count.to_string(),
        Models::Known(count, missing) => {
            format!(
                "{count}, without those of {} that did not answer",
                plural::count(*missing, "upstream")
            )
        }
        Models::Failed(why) => {
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            let why: String = why.chars().take(MAX_ERROR_CHARS).collect();
            format!("not known yet: {why}")
        }
        Models::Late => "not known yet: no answer within 1 s".to_owned(),
    }
}

/// An address that can be asked on this machine.
fn to_reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        }
    }
    address
}

/// Asks all upstreams for their models at the same time, and waits a moment for their answers.
pub(super) fn count_models(router: &Router) -> Models {
    let asked = router.upstreams().len();
    let (sender, answers) = bounded(asked);
    for upstream in router.upstreams() {
        let (upstream, sender) = (upstream.clone(), sender.clone());
        let ask = move || drop(sender.send(list_ids(&upstream)));
        // Without a thread the number stays unknown.
        drop(thread::Builder::new().name("start".into()).spawn(ask));
    }
    drop(sender);
    collect(&answers, asked, Instant::now() + MAX_WAIT)
}

/// The ids of an upstream's models, or why there are none.
fn list_ids(upstream: &Arc<Upstream>) -> Result<Vec<String>, String> {
    let ids = |list: ModelList| list.iter().map(|model| model.id.clone()).collect();
    let listed = match upstream.client.fixed_list() {
        Some(list) => Ok(list),
        None => upstream.client.check_health(&mut Trace::new("start")),
    };
    listed.map(ids).map_err(|error| error.message().to_string())
}

fn collect(
    answers: &Receiver<Result<Vec<String>, String>>,
    asked: usize,
    deadline: Instant,
) -> Models {
    let (mut ids, mut listed, mut failure) = (HashSet::new(), 0, None);
    while let Ok(answer) = answers.recv_deadline(deadline) {
        match answer {
            Ok(list) => {
                ids.extend(list);
                listed += 1;
            }
            Err(why) => failure = failure.or(Some(why)),
        }
    }
    match (listed, failure) {
        (0, Some(why)) => Models::Failed(why),
        (0, None) => Models::Late,
        (listed, _) => Models::Known(ids.len(), asked - listed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::client_keys::ClientKeys;

    fn config() -> Config {
        Config::for_base_url("https://api.test/v1").expect("a URL")
    }

    #[test]
    fn the_lines_say_where_to_whom_how_many_who_and_where_the_status_page_is() {
        let address: SocketAddr = "127.0.0.1:11434".parse().expect("an address");
        let start = StartLines::new(&config());
        assert_eq!(
            start.lines(address, &Models::Known(57, 0)),
            [
                ("listening on", "127.0.0.1:11434".to_owned()),
                ("upstream", "https://api.test/v1".to_owned()),
                ("models", "57".to_owned()),
                ("who may ask", "every program on this machine, without a key".to_owned()),
                ("status page", "http://127.0.0.1:11434/status".to_owned()),
            ]
        );
        assert_eq!(
            start.log_line(address),
            "listening on 127.0.0.1:11434, upstream https://api.test/v1"
        );
    }

    #[test]
    fn who_may_ask_follows_the_keys_and_the_address() {
        for (keys, address, expected, status) in [
            ("", "[::1]:1", "every program on this machine, without a key", "[::1]:1"),
            ("", "0.0.0.0:1", "everyone who can reach this address, without a key", "127.0.0.1:1"),
            ("first-key-1", "[::]:1", "clients that send the key of PROXY_API_KEYS", "[::1]:1"),
            (
                "first-key-1,other-key-2",
                "10.0.0.7:1",
                "clients that send one of 2 keys",
                "10.0.0.7:1",
            ),
        ] {
            let keys = match keys {
                "" => ClientKeys::default(),
                keys => ClientKeys::parse(keys).expect("keys"),
            };
            let start = StartLines::new(&Config { proxy_api_keys: keys, ..config() });
            let lines = start.lines(address.parse().expect("an address"), &Models::Late);
            assert_eq!(lines[3].1, expected);
            assert_eq!(lines[4].1, format!("http://{status}/status"));
            assert_eq!(lines[2].1, "not known yet: no answer within 1 s");
        }
    }

    #[test]
    fn models_of_several_upstreams_count_once_and_a_failure_has_its_reason() {
        let answer = |ids: &[&str]| Ok(ids.iter().map(|id| (*id).to_owned()).collect());
        let failed = || Err("it is\nnot  there".to_owned());
        for (answers, expected) in [
            (vec![answer(&["a", "b"]), answer(&["b", "c"])], "3"),
            (vec![answer(&[]), answer(&[])], "0"),
            (vec![failed(), answer(&["a"])], "1, without those of 1 upstream that did not answer"),
            (vec![answer(&["a"])], "1, without those of 1 upstream that did not answer"),
            (vec![failed()], "not known yet: it is not there"),
            (vec![], "not known yet: no answer within 1 s"),
        ] {
            let (sender, receiver) = bounded(2);
            answers.into_iter().for_each(|it| sender.send(it).expect("a place"));
            drop(sender);
            let found = collect(&receiver, 2, Instant::now() + MAX_WAIT);
            assert_eq!(describe_models(&found), expected);
        }
        let long = Models::Failed("x".repeat(9000));
        assert!(describe_models(&long).len() < 300);
    }
}
