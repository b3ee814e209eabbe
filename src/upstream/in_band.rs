//! Errors in responses of status 200: the whole body, or the first event of a stream.
//!
//! As long as no byte of the response was passed on, such an error is what an error status would have been:
//! a rejection may be repaired, any other goes to the client with a status. It is never a reason to send the
//! same request again, because the upstream had accepted it. Never looks behind the first event that adds
//! anything. Invariant: what was read to find an error is kept as the beginning of the response.

use std::time::{Duration, Instant};

use memchr::memmem;

use super::pass_response::PassResponse;
use super::retry::{AttemptError, Call};
use super::{Client, Trace, UpstreamResponse};
use crate::api::openai::pass_head::PassHead;
use crate::backends::errors;
use crate::error::Error;

/// How long a response is waited for that may begin with an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// Without a byte that the client could get; `None` for as long as it takes.
    pub in_silence: Option<Duration>,
    /// Behind the first bytes that the client is to get.
    pub behind_bytes: Duration,
}

impl Patience {
    /// When a wait that begins now is to end.
    pub(super) fn silence_until(&self) -> Option<Instant> {
        self.in_silence.map(|silence| Instant::now() + silence)
    }
}

/// True if a whole body, or the data of an event, is an error.
pub(super) fn is_error(data: &[u8]) -> bool {
    // A search takes less time than parsing every response.
    memmem::find(data, br#"error""#).is_some() && errors::find_in_band_error(data).is_some()
}

impl UpstreamResponse {
    /// The error that a response is, or begins with.
    pub(super) fn find_error(&mut self, patience: &Patience) -> Option<Vec<u8>> {
        match self {
            Self::Whole(body) => is_error(body.as_bytes()).then(|| body.clone().into_bytes()),
            Self::Stream(events) => events.find_first_error(patience.silence_until()),
        }
    }
}

impl UpstreamResponse {
    /// Why a stream ended before it said anything.
    pub(super) fn early_failure(&mut self) -> Option<Error> {
        match self {
            Self::Whole(_) => None,
            Self::Stream(events) => events.early_failure(),
        }
    }
}

impl Client {
    /// The failure that a response with status 200 tells of. One that is passed on has a `head`, and keeps
    /// the upstream's words if they have the form of an error.
    pub(super) fn in_band_failure(
        &self,
        call: &Call<'_>,
        body: Vec<u8>,
        head: Option<PassHead>,
        trace: &Trace,
    ) -> Box<AttemptError> {
        let model = Some(trace.model.as_str()).filter(|model| !model.is_empty());
        let error = errors::to_in_band_error(&body, model, &self.redactor);
        let about_arguments = || Some((call.read_arguments_rejection(&body)?, true));
        let rejection = errors::parse_in_band_rejection(&body).or_else(about_arguments);
        let (rejection, is_unclear) = rejection.unzip();
        let head = head.filter(|_| is_error(&body)).map(|head| {
            let is_type = |name: &str| name.eq_ignore_ascii_case("content-type");
            let mut headers = head.headers;
            headers.retain(|(name, _)| !is_type(name));
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
            PassHead { status: error.status().unwrap_or(head.status), headers }
        });
        Box::new(AttemptError {
            rejection,
            response: head.map(|head| PassResponse::whole(head, body, &self.redactor)),
            is_unclear: is_unclear.unwrap_or_default(),
            ..*Box::<AttemptError>::from(error)
        })
    }
}
