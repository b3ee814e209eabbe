//! `/api/pull`, `/api/push` and `/api/blobs/:digest` (ollama-api.md 12.1, 12.2, 12.6).
//!
//! No model is ever moved: what the upstream has is there, so that pulling it is done at once, and
//! there is no registry to push to. Of an uploaded blob only the digest is kept, because nothing here
//! would read it; it is computed while the blob comes in, and the number of digests is bounded.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::sync::Mutex;

use ring::digest::{self, SHA256};

use super::{Context, model_required_error};
use crate::api::ollama::decode;
use crate::api::ollama::manage::{ProgressResponse, TransferRequest, model_or_name};
use crate::api::ollama::response::ErrorResponse;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::observe::lock::lock;

/// How Ollama says that nobody knows a model; its command line looks for this text.
pub(super) const NO_MANIFEST: &str = "pull model manifest: file does not exist";

/// Digests that are remembered; beyond that the oldest is forgotten.
const MAX_BLOBS: usize = 1024;

/// How a row of progress lines ends.
#[derive(Clone, Copy)]
pub(super) enum ProgressEnd<'a> {
    /// With the last of the lines.
    Success,
    /// With an error.
    Error(&'a str),
}

/// `POST /api/pull`.
pub(super) fn pull(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::decode_body(body)?;
    let request: TransferRequest<'_> = decode::parse(&text, "PullRequest")?;
    let name = model_or_name(request.model.as_ref(), request.name.as_ref());
    let name = context.parse_full_model_name(Some(name), names::invalid_name_error)?;
    let stream = request.stream.unwrap_or(true);
    if context.app.find_model(&name, context.trace)?.is_some() {
        let lines = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"];
        send_progress(context, stream, &lines, ProgressEnd::Success)
    } else if names::is_valid(&name) {
        send_progress(context, stream, &["pulling manifest"], ProgressEnd::Error(NO_MANIFEST))
    } else {
        Err(names::invalid_name_error())
    }
}

/// `POST /api/push`.
pub(super) fn push(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::decode_body(body)?;
    let request: TransferRequest<'_> = decode::parse(&text, "PushRequest")?;
    let name = model_or_name(request.model.as_ref(), request.name.as_ref());
    let name = context.parse_full_model_name(Some(name), model_required_error)?;
    let stream = request.stream.unwrap_or(true);
    let plain = name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"));
    if plain && request.insecure != Some(true) {
        let ended = ProgressEnd::Error("insecure protocol http");
        return send_progress(context, stream, &["retrieving manifest"], ended);
    }
    if context.app.find_model(&name, context.trace)?.is_some() {
        // Success would be a lie: nothing went anywhere.
        let ended =
            ProgressEnd::Error("push is not supported: this proxy has no registry to push to");
        return send_progress(context, stream, &["retrieving manifest"], ended);
    }
    let lines = ["retrieving manifest", "couldn't retrieve manifest"];
    let error = format!("open {}: no such file or directory", names::display_name(&name));
    send_progress(context, stream, &lines, ProgressEnd::Error(&error))
}

/// `HEAD` and `POST /api/blobs/:digest`.
pub(super) fn blob(context: &mut Context<'_>) -> Result<()> {
    let limit = context.app.config.max_body_bytes;
    let wanted = parse_digest(context.route.parameter());
    let known = wanted.as_ref().is_ok_and(|wanted| context.app.blobs.contains(wanted));
    if context.exchange.method() == "HEAD" || wanted.is_err() || known {
        // Read all the same, so that the connection can serve again.
        context.exchange.copy_body(limit, io::sink())?;
        let wanted = wanted?;
        return if known {
            context.exchange.respond(200, ContentType::PlainUtf8, b"")
        } else {
            Err(Error::ModelNotFound { message: format!("blob \"sha256:{wanted}\" not found") })
        };
    }
    let wanted = wanted?;
    let mut hash = Sha256Writer(digest::Context::new(&SHA256));
    context.exchange.copy_body(limit, &mut hash)?;
    let found = hash.into_hex();
    if found != wanted {
        let text = format!("digest mismatch, expected \"sha256:{wanted}\", got \"sha256:{found}\"");
        return Err(Error::invalid_request(text));
    }
    context.app.blobs.insert(wanted);
    context.exchange.respond(201, ContentType::PlainUtf8, b"")
}

/// Writes progress: all lines, or only what comes last for those who want no stream.
pub(super) fn send_progress(
    context: &mut Context<'_>,
    stream: bool,
    lines: &[&str],
    ended: ProgressEnd<'_>,
) -> Result<()> {
    if stream {
        for status in lines {
            let mut line = Vec::with_capacity(128);
            ndjson::append_line(&mut line, &ProgressResponse { status });
            context.exchange.push_line(&line);
        }
        if let ProgressEnd::Error(error) = ended {
            let mut line = Vec::with_capacity(128);
            ndjson::append_line(&mut line, &ErrorResponse { error });
            context.exchange.push_line(&line);
        }
        return context.exchange.end();
    }
    let (status, body) = match (ended, lines.last()) {
        (ProgressEnd::Error(error), _) => (500, ndjson::to_vec(&ErrorResponse { error })),
        (ProgressEnd::Success, Some(status)) => (200, ndjson::to_vec(&ProgressResponse { status })),
        (ProgressEnd::Success, None) => return Err(Error::Internal("progress without an end")),
    };
    context.exchange.respond(status, ContentType::BareJson, &body)
}

/// The digests of the blobs that were uploaded, the oldest first.
#[derive(Default)]
pub(super) struct BlobDigests(Mutex<VecDeque<String>>);

impl BlobDigests {
    fn contains(&self, digest: &str) -> bool {
        lock(&self.0).iter().any(|known| known == digest)
    }

    fn insert(&self, digest: String) {
        let mut digests = lock(&self.0);
        if digests.contains(&digest) {
            return;
        }
        if digests.len() >= MAX_BLOBS {
            digests.pop_front();
        }
        digests.push_back(digest);
    }
}

/// The 64 hex digits of a digest, in lower case.
fn parse_digest(digest: &str) -> Result<String> {
    let digits = digest.strip_prefix("sha256").and_then(|rest| rest.strip_prefix([':', '-']));
    match digits {
        Some(digits) if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(digits.to_ascii_lowercase())
        }
        _ => Err(Error::invalid_request("invalid digest format")),
    }
}

/// Takes bytes and keeps their hash.
struct Sha256Writer(digest::Context);

impl Sha256Writer {
    fn into_hex(self) -> String {
        let mut out = String::with_capacity(64);
        for byte in self.0.finish().as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(out, "{byte:02x}");
        }
        out
    }
}

impl io::Write for &mut Sha256Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_have_one_form() {
        let digits = "0aF".repeat(22)[..64].to_owned();
        for form in [format!("sha256:{digits}"), format!("sha256-{digits}")] {
            assert_eq!(parse_digest(&form).expect(&form), digits.to_ascii_lowercase());
        }
        let short = format!("sha256:{}", &digits[1..]);
        let odd = format!("sha256:{}g", &digits[1..]);
        for form in ["", "sha256:", &digits, &short, &odd, &format!("sha512:{digits}")] {
            assert!(parse_digest(form).is_err(), "{form}");
        }
    }

    #[test]
    fn the_oldest_digests_are_forgotten() {
        let blobs = BlobDigests::default();
        for number in 0..=MAX_BLOBS {
            blobs.insert(number.to_string());
            blobs.insert(number.to_string());
        }
        assert!(
            !blobs.contains("0") && blobs.contains("1") && blobs.contains(&MAX_BLOBS.to_string())
        );
        assert_eq!(lock(&blobs.0).len(), MAX_BLOBS);
    }
}
