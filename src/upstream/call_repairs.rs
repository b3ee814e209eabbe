//! A call that is repaired where the upstream rejects it, and repeated as a stream where it takes long.
//!
//! [`Client::with_repairs`] loops over the rejections of one request, [`Client::send_in_time`] makes the
//! attempts at one form of it. What helped is remembered. Invariant: the first rejection of what the client
//! wrote is the one that it gets, unless the repaired request is too long, and no request is sent a second
//! time after a timeout.

use std::cell::{Cell, OnceCell};
use std::time::Instant;

use super::retry::{AfterTimeout, AttemptError, AttemptResult, is_late};
use super::transport::agent::Payload;
use super::{Client, Operation, Trace, UpstreamResponse};
use crate::api::openai::request::ResponseEffects;
use crate::api::openai::request_body::RequestBody;
use crate::backends::errors;
use crate::backends::errors::ErrorDetails;
use crate::error::Error;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::repair::document::{Document, Repairable};
use crate::upstream::repair::session::{Change, Session, describe_rejection, use_responses};

/// What is called, and for what.
pub(super) struct Target<'m> {
    pub operation: Operation,
    pub model: &'m str,
    /// True for a whole response that may be asked for as a stream instead.
    pub is_whole: bool,
    /// True for a stream that may be asked for as a whole response instead.
    pub is_stream: bool,
    /// True once the request was sent again after a timeout.
    was_repeated: Cell<bool>,
}

impl<'m> Target<'m> {
    /// A call whose response has the form that the request asks for, and no other.
    pub(super) fn new(operation: Operation, model: &'m str) -> Self {
        let was_repeated = Cell::new(false);
        Self { operation, model, is_whole: false, is_stream: false, was_repeated }
    }

    /// A call whose response is translated, so that it may come in either form.
    pub(super) fn of_request(operation: Operation, request: &'m impl Repairable) -> Self {
        let (can_collect, is_stream) = (request.route().can_collect, request.is_stream());
        let target = Self::new(operation, request.model());
        Self { is_whole: can_collect && !is_stream, is_stream: can_collect && is_stream, ..target }
    }
}

/// The body of a request that can be sent again.
pub(super) enum HeldBody<'a> {
    Pieces(&'a RequestBody<'a>),
    Bytes(&'a [u8]),
}

/// True if a route turned out not to serve a model.
fn lacks_route(error: &Error) -> bool {
    error.is_missing_endpoint() || matches!(error, Error::ModelNotFound(_))
}

impl Client {
    /// Sends a request, and sends it again at once when the upstream rejects it and it can be repaired.
    /// Repairs that the model needed before are made at the start. `send` gets the request as the repairs
    /// left it, or `None` for the request as it came. Returns what the response then needs, too.
    pub(super) fn with_repairs<'d, T>(
        &self,
        target: &Target<'_>,
        trace: &mut Trace,
        make_document: impl FnOnce() -> Option<Document<'d>>,
        mut send: impl FnMut(Option<&Document<'d>>, &mut Trace) -> AttemptResult<T>,
    ) -> AttemptResult<(T, Option<ResponseEffects>)> {
        let mut make_document = Some(make_document);
        let extras = &self.tool_call_extras;
        let mut make = || {
            let document = make_document.take().and_then(|make| make())?;
            Some(match extras.is_empty() {
                true => document,
                false => document.with_kept_reasoning(|call| extras.reasoning(call)),
            })
        };
        let mut repaired = self.begin_repaired(target, &mut make);
        let (mut first, mut route_rejection) = (None, None);
        loop {
            let document = repaired.as_ref().map(|(document, _)| document);
            let failure = match send(document.filter(|document| document.is_changed()), trace) {
                Ok(response) => {
                    repaired.iter().for_each(|repaired| self.remember(target, repaired));
                    return Ok((response, repaired.map(|(document, _)| document.effects)));
                }
                Err(failure) => failure,
            };
            if document.is_some_and(Document::is_for_responses) && lacks_route(&failure.error) {
                self.responses_models.remove(target.operation.path, target.model);
                return Err(route_rejection.unwrap_or(failure));
            }
            let Some(details) = failure.read_rejection() else {
                self.remember_unproven(target, &failure.error, repaired.as_ref());
                // Whatever became of the last attempt, the first rejection is about the client's request,
                // unless the client may send it again.
                let is_last = document.is_some_and(|document| document.is_last_resort);
                let is_about_time = matches!(failure.error.status(), None | Some(401 | 429))
                    || matches!(failure.error, Error::ShuttingDown);
                return Err(first.filter(|_| is_last && !is_about_time).unwrap_or(failure));
            };
            repaired = repaired.or_else(|| {
                let document = make()?;
                let session = Session::new(&document);
                Some((document, session))
            });
            let Some((document, session)) = &mut repaired else { return Err(failure) };
            if failure.became_stream {
                session.prefer_stream(document);
            }
            // A prompt that is too long is what the client wrote, and the rest of it was taken.
            let is_overflow = errors::is_context_overflow(details) && !document.is_last_resort;
            let is_unclear = failure.is_unclear;
            let Some(change) = self.find_change(target, (details, is_unclear), (document, session))
            else {
                if is_overflow {
                    repaired.iter().for_each(|repaired| self.remember(target, repaired));
                    return Err(failure);
                }
                // The first one is about what the client wrote.
                return Err(first.unwrap_or(failure));
            };
            self.report_change(target, &change, (details, document), trace);
            match change {
                Change::Whole => {}
                Change::Responses => route_rejection = Some(failure),
                _ => drop(first.get_or_insert(failure)),
            }
        }
    }

    /// The request with what its model needed before; `None` if nothing is known of the model.
    fn begin_repaired<'d>(
        &self,
        target: &Target<'_>,
        make: &mut impl FnMut() -> Option<Document<'d>>,
    ) -> Option<(Document<'d>, Session)> {
        let (path, model, now) = (target.operation.path, target.model, Instant::now());
        let known = self.repair_memory.get(path, model, now);
        let prefers_stream = target.is_whole && self.long_answers.wants_stream(path, model, now);
        let is_for_responses = self.responses_models.contains(path, model, now);
        // Of another model, streams may pass.
        let must_be_whole =
            target.is_stream && self.long_answers.rejects_stream_of(path, model, now);
        let adds_members = !self.extra_body.is_empty();
        let is_as_it_came = known.is_empty() && !is_for_responses && !adds_members;
        if is_as_it_came && !prefers_stream && !must_be_whole {
            return None;
        }
        let mut document = make()?;
        document.add_missing(&self.extra_body);
        document.rejects_streams = self.long_answers.rejects_streams(path, now);
        let mut session = Session::begin(&known, &mut document);
        if is_for_responses {
            use_responses(&mut document);
        }
        if must_be_whole {
            document.use_whole();
        }
        if prefers_stream {
            session.prefer_stream(&mut document);
        }
        Some((document, session))
    }

    fn find_change(
        &self,
        target: &Target<'_>,
        (details, is_unclear): (&ErrorDetails, bool),
        (document, session): (&mut Document<'_>, &mut Session),
    ) -> Option<Change> {
        let (path, model, now) = (target.operation.path, target.model, Instant::now());
        document.rejects_streams |= self.long_answers.rejects_streams(path, now);
        let is_hopeless =
            |hash| is_unclear || self.repair_memory.is_hopeless(path, model, hash, now);
        let change = session.next(details, document, is_hopeless);
        if change.is_none() && session.has_failed_plainly() {
            self.repair_memory.mark_hopeless(path, model, session.rejection_hash(), now);
        }
        change
    }

    /// Remembers what a request needed that was accepted.
    fn remember(&self, target: &Target<'_>, (document, session): &(Document<'_>, Session)) {
        let (path, model, now) = (target.operation.path, target.model, Instant::now());
        let (repairs, groups, experiment) = session.learnt();
        self.repair_memory.insert(path, model, &repairs, now);
        if !groups.is_empty() {
            self.repair_memory.insert_groups(path, model, &groups, now);
        }
        if let Some(experiment) = experiment {
            self.repair_memory.record_experiment(path, model, experiment, now);
        }
        if document.is_for_responses() && !self.responses_models.contains(path, model, now) {
            self.responses_models.insert(path, model, now);
        }
        if session.is_stream_rejected() {
            self.long_answers.record_no_streams(path, model, now);
        }
    }

    /// Remembers what ended the rejections of a request that then failed for another reason, of the key, the
    /// rate or the server: its client sends it again, and is not to pay for the same rejection each time.
    fn remember_unproven(
        &self,
        target: &Target<'_>,
        error: &Error,
        repaired: Option<&(Document<'_>, Session)>,
    ) {
        let Some((_, session)) = repaired.filter(|_| error.is_answer_to_any_request()) else {
            return;
        };
        let ((repairs, groups, _), now) = (session.learnt(), Instant::now());
        let (path, model) = (target.operation.path, target.model);
        self.repair_memory.insert_unproven(path, model, &repairs, &groups, now);
    }

    /// Sends one form of a request, as a stream if its whole response does not come in time, and notes how
    /// long that took. `to_stream` makes the body of the stream.
    pub(super) fn send_in_time(
        &self,
        target: &Target<'_>,
        (operation, body): (Operation, HeldBody<'_>),
        retry_policy: RetryPolicy,
        to_stream: &dyn Fn() -> String,
        trace: &mut Trace,
    ) -> AttemptResult<UpstreamResponse> {
        let is_whole = target.is_whole && !operation.stream;
        let stream = OnceCell::new();
        let stream_body = || stream.get_or_init(to_stream).as_bytes();
        let payload = match body {
            HeldBody::Pieces(body) => Payload::Pieces(body),
            HeldBody::Bytes(body) => Payload::Bytes(body),
        };
        let mut call = self.new_call(operation, Some(target.model), payload);
        call.retry_policy = retry_policy;
        if is_whole && !target.was_repeated.get() {
            let path = target.operation.path;
            let rejects_streams = self.long_answers.rejects_streams(path, Instant::now());
            call.after_timeout = if rejects_streams {
                AfterTimeout::RepeatOnce
            } else {
                AfterTimeout::Stream(&stream_body)
            };
        }
        let result = self.retry(&mut call, trace, Self::read_response);
        if !is_whole {
            return result;
        }
        let became_stream = call.operation.stream;
        let was_repeated = matches!(call.after_timeout, AfterTimeout::Fail);
        target.was_repeated.set(was_repeated);
        self.record_duration(target, (&result, became_stream), trace);
        result.map_err(|failure| Box::new(AttemptError { became_stream, ..*failure }))
    }

    /// Notes how long a whole response took.
    fn record_duration(
        &self,
        target: &Target<'_>,
        (result, became_stream): (&AttemptResult<UpstreamResponse>, bool),
        trace: &Trace,
    ) {
        let took = match result {
            _ if became_stream => None,
            Ok(UpstreamResponse::Whole(_)) => trace.last_attempt_at.map(|began| began.elapsed()),
            Err(failure) if is_late(&failure.error) => None,
            _ => return,
        };
        let (about, now) = ((target.operation.path, target.model), Instant::now());
        self.long_answers.record(about, (took, self.agent.timeout), now);
    }

    /// Logs, counts and notes what was done about a rejection.
    fn report_change(
        &self,
        target: &Target<'_>,
        change: &Change,
        (details, document): (&ErrorDetails, &Document<'_>),
        trace: &Trace,
    ) {
        // Masked before it is shortened: half a key would not be recognised.
        let reason = describe_rejection(&self.redactor.redact(&details.message), document);
        log::warn!(
            "{} upstream{} rejected a request for {:?} ({:?}), sending again: {change}",
            trace.request_id,
            self.log_name(),
            trace.model,
            reason
        );
        change.kinds().into_iter().for_each(|kind| self.metrics.repairs.add(kind, 1));
        let (path, model, now) = (target.operation.path, target.model, Instant::now());
        for change in change.descriptions() {
            self.repair_memory.note_reason(path, model, (&change, &reason), now);
        }
    }
}
