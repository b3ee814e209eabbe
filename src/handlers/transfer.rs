//! `/api/pull`, `/api/push` and `/api/blobs/:digest` (ollama-api.md 12.1, 12.2, 12.6).
//!
//! No model is ever moved: what the upstream has is there, so that pulling it is done at once, and
//! there is no registry to push to. Of an uploaded blob only the digest is kept, because nothing here
//! would read it; it is computed while the blob comes in, and the number of digests is bounded.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{self, SHA256};

use super::{Context, model_is_required};
use crate::api::ollama::decode;
use crate::api::ollama::manage::{Progress, TransferRequest, either};
use crate::api::ollama::response::ErrorAnswer;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::http::routes;

/// How Ollama says that nobody knows a model; its command line looks for this text.
pub(super) const NO_MANIFEST: &str = "pull model manifest: file does not exist";

/// Digests that are remembered; beyond that the oldest is forgotten.
const MOST_BLOBS: usize = 1024;

/// How a row of progress lines ends.
#[derive(Clone, Copy)]
pub(super) enum Ended<'a> {
    /// With the last of the lines.
    Well,
    /// With an error.
    Error(&'a str),
}

/// `POST /api/pull`.
pub(super) fn pull(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: TransferRequest<'_> = decode::parse(&text, "PullRequest")?;
    let name = either(request.model.as_ref(), request.name.as_ref());
    let name = context.any_name(Some(name), names::invalid)?;
    let stream = request.stream.unwrap_or(true);
    if context.app.known(&name, context.trace)?.is_some() {
        let lines = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"];
        progress(context, stream, &lines, Ended::Well)
    } else if names::is_valid(&name) {
        progress(context, stream, &["pulling manifest"], Ended::Error(NO_MANIFEST))
    } else {
        Err(names::invalid())
    }
}

/// `POST /api/push`.
pub(super) fn push(context: &mut Context<'_>, body: Vec<u8>) -> Result<()> {
    let text = decode::text(body)?;
    let request: TransferRequest<'_> = decode::parse(&text, "PushRequest")?;
    let name = either(request.model.as_ref(), request.name.as_ref());
    let name = context.any_name(Some(name), model_is_required)?;
    let stream = request.stream.unwrap_or(true);
    let plain = name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"));
    if plain && request.insecure != Some(true) {
        let ended = Ended::Error("insecure protocol http");
        return progress(context, stream, &["retrieving manifest"], ended);
    }
    if context.app.known(&name, context.trace)?.is_some() {
        // Success would be a lie: nothing went anywhere.
        let ended = Ended::Error("push is not supported: this proxy has no registry to push to");
        return progress(context, stream, &["retrieving manifest"], ended);
    }
    let lines = ["retrieving manifest", "couldn't retrieve manifest"];
    let error = format!("open {}: no such file or directory", names::display(&name));
    progress(context, stream, &lines, Ended::Error(&error))
}

/// `HEAD` and `POST /api/blobs/:digest`.
pub(super) fn blob(context: &mut Context<'_>) -> Result<()> {
    let limit = context.app.config.max_body_bytes;
    let wanted = hex(routes::last_step(context.exchange.target()));
    let known = wanted.as_ref().is_ok_and(|wanted| context.app.blobs.has(wanted));
    if context.exchange.method() == "HEAD" || wanted.is_err() || known {
        // Read all the same, so that the connection can serve again.
        context.exchange.copy_body(limit, io::sink())?;
        let wanted = wanted?;
        return if known {
            context.exchange.answer(200, ContentType::Text, b"")
        } else {
            Err(Error::ModelNotFound { message: format!("blob \"sha256:{wanted}\" not found") })
        };
    }
    let wanted = wanted?;
    let mut hash = Hash(digest::Context::new(&SHA256));
    context.exchange.copy_body(limit, &mut hash)?;
    let found = hash.hex();
    if found != wanted {
        let text = format!("digest mismatch, expected \"sha256:{wanted}\", got \"sha256:{found}\"");
        return Err(Error::invalid(text));
    }
    context.app.blobs.add(wanted);
    context.exchange.answer(201, ContentType::Text, b"")
}

/// Writes progress: all lines, or only what comes last for those who want no stream.
pub(super) fn progress(
    context: &mut Context<'_>,
    stream: bool,
    lines: &[&str],
    ended: Ended<'_>,
) -> Result<()> {
    if stream {
        for status in lines {
            let mut line = Vec::with_capacity(128);
            ndjson::append_line(&mut line, &Progress { status });
            context.exchange.line(&line);
        }
        if let Ended::Error(error) = ended {
            let mut line = Vec::with_capacity(128);
            ndjson::append_line(&mut line, &ErrorAnswer { error });
            context.exchange.line(&line);
        }
        return context.exchange.end();
    }
    let (status, body) = match (ended, lines.last()) {
        (Ended::Error(error), _) => (500, ndjson::to_vec(&ErrorAnswer { error })),
        (Ended::Well, Some(status)) => (200, ndjson::to_vec(&Progress { status })),
        (Ended::Well, None) => return Err(Error::Internal("progress without an end")),
    };
    context.exchange.answer(status, ContentType::BareJson, &body)
}

/// The digests of the blobs that were uploaded, the oldest first.
#[derive(Default)]
pub(super) struct Blobs(Mutex<VecDeque<String>>);

impl Blobs {
    fn has(&self, digest: &str) -> bool {
        self.digests().iter().any(|known| known == digest)
    }

    fn add(&self, digest: String) {
        let mut digests = self.digests();
        if digests.contains(&digest) {
            return;
        }
        if digests.len() >= MOST_BLOBS {
            digests.pop_front();
        }
        digests.push_back(digest);
    }

    fn digests(&self) -> MutexGuard<'_, VecDeque<String>> {
        // No code can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The 64 hex digits of a digest, in lower case.
fn hex(digest: &str) -> Result<String> {
    let digits = digest.strip_prefix("sha256").and_then(|rest| rest.strip_prefix([':', '-']));
    match digits {
        Some(digits) if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(digits.to_ascii_lowercase())
        }
        _ => Err(Error::invalid("invalid digest format")),
    }
}

/// Takes bytes and keeps their hash.
struct Hash(digest::Context);

impl Hash {
    fn hex(self) -> String {
        let mut out = String::with_capacity(64);
        for byte in self.0.finish().as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(out, "{byte:02x}");
        }
        out
    }
}

impl io::Write for &mut Hash {
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
            assert_eq!(hex(&form).expect(&form), digits.to_ascii_lowercase());
        }
        let short = format!("sha256:{}", &digits[1..]);
        let odd = format!("sha256:{}g", &digits[1..]);
        for form in ["", "sha256:", &digits, &short, &odd, &format!("sha512:{digits}")] {
            assert!(hex(form).is_err(), "{form}");
        }
    }

    #[test]
    fn the_oldest_digests_are_forgotten() {
        let blobs = Blobs::default();
        for number in 0..=MOST_BLOBS {
            blobs.add(number.to_string());
            blobs.add(number.to_string());
        }
        assert!(!blobs.has("0") && blobs.has("1") && blobs.has(&MOST_BLOBS.to_string()));
        assert_eq!(blobs.digests().len(), MOST_BLOBS);
    }
}
