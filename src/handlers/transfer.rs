//! `/api/pull`, `/api/push` and `/api/blobs/:digest`.
//!
//! Never transfers a model, except of a real Ollama ([`super::native_manage`]): a pull succeeds at once if the
//! upstream has the model, and a push always fails. Of an uploaded blob only the digest is stored; it is computed while the blob arrives.
//! Invariant: at most [`MAX_BLOBS`] digests are stored.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use ring::digest::{self, SHA256};

use super::{Context, key_access, model_required_error, native_manage};
use crate::api::ollama::decode;
use crate::api::ollama::manage::{ProgressResponse, TransferRequest, model_or_name};
use crate::api::ollama::response::ErrorResponse;
use crate::api::wire::ndjson;
use crate::backends::names;
use crate::error::{Error, Result};
use crate::http::exchange::ContentType;
use crate::observe::lock::lock;

/// The most digests stored; beyond that the oldest is removed.
const MAX_BLOBS: usize = 1024;

/// `POST /api/pull`.
pub(super) fn pull(context: &mut Context<'_>, text: String) -> Result<()> {
    key_access::check_named(context, &text, &["model", "name"])?;
    if native_manage::transfer(context, "/api/pull", &text)? {
        return Ok(());
    }
    let request: TransferRequest<'_> = decode::parse(&text, "PullRequest")?;
    let name = model_or_name(request.model.as_ref(), request.name.as_ref());
    let name =
        context.app.parse_full_model_name(Some(name), context.trace, names::invalid_name_error)?;
    let stream = request.stream.unwrap_or(true);
    if context.app.find_model(&name, context.trace)?.is_some() {
        let lines = ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"];
        send_progress(context, stream, &lines, None)
    } else if names::is_valid(&name) {
        send_progress(context, stream, &["pulling manifest"], Some(no_manifest()))
    } else {
        Err(names::invalid_name_error())
    }
}

/// Ollama's error for an unknown model; its command line looks for this text.
pub(super) fn no_manifest() -> Error {
    Error::ModelNotFound("pull model manifest: file does not exist".into())
}

/// `POST /api/push`.
pub(super) fn push(context: &mut Context<'_>, text: String) -> Result<()> {
    key_access::check_named(context, &text, &["model", "name"])?;
    if native_manage::transfer(context, "/api/push", &text)? {
        return Ok(());
    }
    let request: TransferRequest<'_> = decode::parse(&text, "PushRequest")?;
    let name = model_or_name(request.model.as_ref(), request.name.as_ref());
    let name =
        context.app.parse_full_model_name(Some(name), context.trace, model_required_error)?;
    let stream = request.stream.unwrap_or(true);
    let plain = name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"));
    if plain && request.insecure != Some(true) {
        let error = Error::invalid_request("insecure protocol http");
        return send_progress(context, stream, &["retrieving manifest"], Some(error));
    }
    if context.app.find_model(&name, context.trace)?.is_some() {
        let text = "push is not supported: this proxy has no registry to push to";
        let error = Error::Unsupported(text.into());
        return send_progress(context, stream, &["retrieving manifest"], Some(error));
    }
    let lines = ["retrieving manifest", "couldn't retrieve manifest"];
    let error = format!("open {}: no such file or directory", names::display_name(&name));
    send_progress(context, stream, &lines, Some(Error::ModelNotFound(error)))
}

/// `HEAD` and `POST /api/blobs/:digest`.
pub(super) fn blob(context: &mut Context<'_>) -> Result<()> {
    key_access::check_blobs(context)?;
    if native_manage::blob(context)? {
        return Ok(());
    }
    let wanted = parse_digest(context.route.parameter());
    let known = wanted.as_ref().is_ok_and(|wanted| context.app.blobs.contains(wanted));
    // The body is read in any case, so that the connection can serve the next request.
    let mut hash = Sha256Writer(digest::Context::new(&SHA256));
    context.exchange.copy_body(context.app.max_body_bytes(), &mut hash)?;
    let wanted = wanted?;
    if known {
        return context.exchange.respond(200, ContentType::PLAIN_UTF8, b"");
    }
    if context.exchange.method() == "HEAD" {
        return Err(Error::ModelNotFound(format!("blob \"sha256:{wanted}\" not found")));
    }
    let actual: String =
        hash.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if actual != wanted {
        let text =
            format!("digest mismatch, expected \"sha256:{wanted}\", got \"sha256:{actual}\"");
        return Err(Error::invalid_request(text));
    }
    context.app.blobs.insert(wanted);
    context.exchange.respond(201, ContentType::PLAIN_UTF8, b"")
}

/// Sends progress lines, followed by `error` if there is one; without streaming, only the last line.
/// The status is Ollama's, whatever the error: 200 for a stream, otherwise 500 (server/routes.go).
pub(super) fn send_progress(
    context: &mut Context<'_>,
    stream: bool,
    lines: &[&str],
    error: Option<Error>,
) -> Result<()> {
    let progress = lines.iter().map(|status| ndjson::to_vec(&ProgressResponse { status }));
    let mut values: Vec<Vec<u8>> = progress.collect();
    let text = error.as_ref().map(Error::message);
    values.extend(text.iter().map(|error| ndjson::to_vec(&ErrorResponse { error })));
    context.trace.reported_error = error;
    if !stream {
        let status = if text.is_some() { 500 } else { 200 };
        let last = values.pop().unwrap_or_default();
        return context.exchange.respond(status, ContentType::BARE_JSON, &last);
    }
    for mut line in values {
        line.push(b'\n');
        context.exchange.push_line(&line);
    }
    context.exchange.end()
}

/// The digests of uploaded blobs, the oldest first.
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

/// The 64 hexadecimal digits of a digest, in lower case.
fn parse_digest(digest: &str) -> Result<String> {
    let digits = digest.strip_prefix("sha256").and_then(|rest| rest.strip_prefix([':', '-']));
    match digits {
        Some(digits) if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(digits.to_ascii_lowercase())
        }
        _ => Err(Error::invalid_request("invalid digest format")),
    }
}

/// Hashes everything written to it.
struct Sha256Writer(digest::Context);

impl io::Write for Sha256Writer {
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
