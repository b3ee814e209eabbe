//! Requests of clients that the upstream understands as they are, and its responses as they arrive.
//!
//! A response's body is handed on in the pieces in which it arrives ([`super::pass_stream`]) and never
//! changed; it is looked at for what must go up again with its calls. An error keeps its status and its
//! body, with keys masked. Invariant: a body that streams from a client into the upstream is sent once, because
//! the proxy keeps no copy of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use ureq::Body;
use ureq::http::Response;

use super::answer_watcher::{self, AnswerWatcher};
use super::pass_converted::Conversion;
use super::pass_response::{PassPieces, PassResponse, PassResponseBody, Piece};
use super::pass_stream::{MAX_BUFFERED_BYTES, PassStream};
use super::response::StreamedBody;
use super::retry::{AttemptResult, Call};
use super::transport::agent::{Payload, header, is_json};
use super::transport::errors::check_cancelled;
use super::transport::read_deadline::ReadDeadline;
use super::{
    Client, ConnectionPolicy, Operation, ToolCallExtras, Trace, UpstreamResponse, in_band,
};
use crate::api::openai::other_routes::OtherRoute;
use crate::api::openai::raw_object;
use crate::backends::errors;
use crate::error::{Error, Result};
use crate::net::memory_budget;
use crate::observe::body_log::BodyLogger;
use crate::translate::pass_through::{Endpoint, PassBody};
use crate::upstream::call_repairs::Target;
use crate::upstream::repair::document::{Document, RouteTraits};

/// Headers of the client that are sent to the upstream.
pub type PassHeaders = Vec<(&'static str, String)>;

/// Where a body that is not read here is passed on to.
#[derive(Clone, Copy, Debug)]
pub enum PassTarget<'a> {
    /// A route that the proxy has, too, by its path below the base URL.
    Known(&'static str),
    /// A route that only the upstream has. What it costs to run it twice is unknown, so the request
    /// is sent again only where connecting failed.
    Other(OtherRoute<'a>),
}

/// A response, and whether the client gets it as it is.
enum Passed {
    AsIs(PassResponse),
    Other(UpstreamResponse),
}

impl Client {
    /// Passes a request on, repaired where the upstream rejects it as it is.
    ///
    /// # Errors
    /// Failures without a response; the upstream's own errors are responses.
    pub fn pass(
        &self,
        endpoint: Endpoint,
        request: &PassBody<'_>,
        headers: &PassHeaders,
        trace: &mut Trace,
    ) -> Result<PassResponse> {
        let operation = Operation::pass(endpoint.path());
        let (is_chat, model) = (endpoint == Endpoint::Chat, request.model());
        let can_collect = matches!(endpoint, Endpoint::Chat | Endpoint::Completions);
        let traits = RouteTraits { is_chat, is_passed: true, ..RouteTraits::default() };
        let route = RouteTraits { can_collect, ..traits };
        let make_document = || Some(Document::new(request.object.clone(), route));
        let target = Target::new(operation, model);
        let result = self.with_repairs(&target, trace, make_document, |document, trace| {
            self.send_passed(&target, request, (document, headers), trace)
        });
        let result = result.and_then(|((response, conversion), _)| {
            Ok(match response {
                Passed::AsIs(response) => response,
                Passed::Other(response) => self.convert(response, conversion)?,
            })
        });
        let response = self.prefer_response(operation, trace, result)?;
        Ok(if is_chat { self.watch_calls(response, model) } else { response })
    }

    /// Sends a request as it is, or as the repairs left it.
    fn send_passed(
        &self,
        target: &Target<'_>,
        request: &PassBody<'_>,
        (document, headers): (Option<&Document<'_>>, &PassHeaders),
        trace: &mut Trace,
    ) -> AttemptResult<(Passed, Conversion)> {
        let mut reservation = memory_budget::reserve();
        let body = match document {
            None => request.to_bytes(),
            Some(document) => Cow::Owned(self.document_body(document).into_bytes()),
        };
        if let Cow::Owned(copy) = &body {
            reservation.cover_request(copy.len())?;
        }
        let is_for_responses = document.is_some_and(Document::is_for_responses);
        let custom_tools = document.map_or(&[][..], |document| &document.effects.custom_tools);
        let conversion = Conversion::new(&request.object, is_for_responses, custom_tools);
        let operation = if is_for_responses { Operation::PASS_RESPONSES } else { target.operation };
        let is_stream = document.is_some_and(Document::is_stream);
        let operation = operation.streaming(is_stream);
        let mut call = self.new_call(operation, Some(target.model), Payload::Bytes(&body));
        if document.is_some_and(|document| document.is_last_resort) {
            call.retry_policy = self.no_retry_policy();
        }
        if document.is_some() && conversion.is_needed(is_stream) {
            call.request.pass_headers = Some(headers);
            let response = self.retry(&mut call, trace, Self::read_response)?;
            return Ok((Passed::Other(response), conversion));
        }
        let response = self.send_pass(call, headers, trace)?;
        Ok((Passed::AsIs(response), conversion))
    }

    /// Passes on a body that is not read here.
    ///
    /// # Errors
    /// As [`Client::pass`].
    pub fn pass_unread<'a>(
        &self,
        target: PassTarget<'_>,
        model: Option<&str>,
        headers: &'a PassHeaders,
        payload: Payload<'a>,
        trace: &mut Trace,
    ) -> Result<PassResponse> {
        let operation = match target {
            PassTarget::Known(path) => Operation::pass(path),
            PassTarget::Other(_) => Operation::PASS_OTHER,
        };
        let (path, extended) = (operation.path, self.extend(&payload, headers));
        let as_it_came = match &payload {
            Payload::Bytes(body) if extended.is_some() => Some(*body),
            _ => None,
        };
        let mut result = match &extended {
            Some(body) => {
                let payload = Payload::Bytes(body.as_bytes());
                self.send_pass(
                    self.new_pass_call((target, operation), model, payload),
                    headers,
                    trace,
                )
            }
            None => self.send_pass(
                self.new_pass_call((target, operation), model, payload),
                headers,
                trace,
            ),
        };
        if let Some(body) = as_it_came
            && result.as_ref().is_err_and(|failure| failure.read_rejection().is_some())
        {
            let id = &trace.request_id;
            log::warn!("{id} upstream rejected a request, sending again: without extra_body");
            let call = self.new_pass_call((target, operation), model, Payload::Bytes(body));
            result = self.send_pass(call, headers, trace);
        }
        let result = result.inspect_err(|failure| {
            // The next request for this model is held, so that it can be sent to the other route.
            let names_route = failure.rejection.as_ref().is_some_and(errors::names_responses_route);
            if let (Some(model), true) = (model, names_route && path == Operation::CHAT.path) {
                self.responses_models.insert(path, model, Instant::now());
            }
        });
        let response = self.prefer_response(operation, trace, result)?;
        let is_chat = matches!(target, PassTarget::Known(path) if path == Endpoint::Chat.path());
        let model = model.filter(|_| is_chat);
        Ok(match model {
            Some(model) => self.watch_calls(response, model),
            None => response,
        })
    }

    fn new_pass_call<'a>(
        &self,
        (target, operation): (PassTarget<'_>, Operation),
        model: Option<&str>,
        payload: Payload<'a>,
    ) -> Call<'a> {
        let mut call = self.new_call(operation, model, payload);
        if let PassTarget::Other(route) = target {
            call.request.url = self.base_url.route_url(route, model);
            call.only_reconnects = true;
        }
        call
    }

    /// A body of JSON with the operator's members that it lacks; `None` if nothing is added.
    pub(super) fn extend(&self, payload: &Payload<'_>, headers: &PassHeaders) -> Option<String> {
        let Payload::Bytes(body) = payload else { return None };
        if !self.adds_members() || !is_json(headers) {
            return None;
        }
        raw_object::append_missing(std::str::from_utf8(body).ok()?, self.extra_body.iter())
    }

    /// Keeps what the upstream may want back with the calls of a response: at once, or as it arrives.
    fn watch_calls(&self, mut response: PassResponse, model: &str) -> PassResponse {
        response.body = match response.body {
            PassResponseBody::Whole(body) => {
                let found = answer_watcher::read_whole(&body);
                found.iter().for_each(|found| self.tool_call_extras.save(model, found));
                PassResponseBody::Whole(body)
            }
            PassResponseBody::Stream(pieces) => {
                let watcher = AnswerWatcher::new(response.head.is_event_stream());
                let (extras, model) = (Arc::clone(&self.tool_call_extras), model.to_owned());
                let watched = WatchedPieces { pieces, watcher, extras, model };
                PassResponseBody::Stream(Box::new(watched))
            }
        };
        response
    }

    pub(super) fn send_pass<'a>(
        &self,
        mut call: Call<'a>,
        headers: &'a PassHeaders,
        trace: &mut Trace,
    ) -> AttemptResult<PassResponse> {
        call.request.pass_headers = Some(headers);
        if let Payload::Stream(..) = call.request.payload {
            // What cannot be sent again must not meet a stale connection.
            call.connection_policy = ConnectionPolicy::Dedicated;
            call.retry_policy = self.no_retry_policy();
        }
        self.retry(&mut call, trace, Self::read_pass_response)
    }

    fn read_pass_response(
        &self,
        call: &Call<'_>,
        response: Response<Body>,
        (logger, trace): (Option<BodyLogger>, &Trace),
    ) -> AttemptResult<PassResponse> {
        let (status, headers) = (response.status().as_u16(), response.headers());
        let head = PassResponse::head(status, headers, &self.redactor);
        let has_body = call.operation.method != "HEAD";
        let length = header(headers, "content-length").and_then(|it| it.parse().ok());
        let length = if has_body { length } else { Some(0) };
        let is_short = length.is_some_and(|length: u64| length <= MAX_BUFFERED_BYTES);
        // The transfer coding may mark the end of the body, too.
        let coding = header(headers, "transfer-encoding").unwrap_or_default().to_ascii_lowercase();
        let ends_with_connection = length.is_none() && !coding.contains("chunked");
        let is_event_stream = head.is_event_stream();
        let (body, timeout) = (response.into_body(), call.request.timeout);
        if !is_event_stream && is_short {
            let (mut deadline, mut bytes) = (ReadDeadline::new(timeout), Vec::new());
            let bounds = (MAX_BUFFERED_BYTES, length);
            deadline.read_to_end(&mut body.into_reader(), bounds, &mut bytes, &mut |_| Ok(()))?;
            check_cancelled()?;
            if let Some(logger) = logger {
                logger.log("upstream response", &bytes);
            }
            let is_error = in_band::is_error(&bytes);
            if is_error && call.operation.reports_errors_in_band() {
                return Err(self.in_band_failure(call, bytes, Some(head), trace));
            }
            let error = if is_error { errors::find_in_band_error(&bytes) } else { None };
            return Ok(PassResponse { head, body: PassResponseBody::Whole(bytes), error });
        }
        let mut body = StreamedBody::new(body, timeout, self.metrics.clone());
        body.has_own_limit = self.has_own_limit;
        let logger = logger.map(|logger| logger.into_line_logger("upstream response"));
        let mut stream = PassStream::new(body, &head, ends_with_connection, logger);
        if call.operation.is_native() && !call.only_reconnects && head.is_ndjson() {
            stream.wait_for_first()?;
        }
        if call.operation.reports_errors_in_band()
            && let Some(error) = stream.find_error(&head, &trace.patience)
        {
            return Err(self.in_band_failure(call, error, Some(head), trace));
        }
        if trace.is_single_attempt
            && let Some(error) = stream.early_failure()
        {
            return Err(error.into());
        }
        let body = PassResponseBody::Stream(Box::new(stream));
        Ok(PassResponse { head, body, error: None })
    }

    /// The upstream's own error, if there is one, is the response.
    pub(super) fn prefer_response(
        &self,
        operation: Operation,
        trace: &Trace,
        result: AttemptResult<PassResponse>,
    ) -> Result<PassResponse> {
        self.log_result(operation, trace, result).or_else(|failure| match failure.response {
            Some(response) => Ok(PassResponse { error: Some(failure.error), ..response }),
            None => Err(failure.error),
        })
    }
}

/// Keeps what the upstream may want back with the calls of a stream.
struct WatchedPieces {
    pieces: Box<dyn PassPieces>,
    watcher: AnswerWatcher,
    extras: Arc<ToolCallExtras>,
    model: String,
}

impl PassPieces for WatchedPieces {
    fn next_piece(&mut self, wake_at: Option<Instant>) -> Result<Piece<'_>> {
        let piece = self.pieces.next_piece(wake_at)?;
        // Before the client has it.
        let found = match piece {
            Piece::Bytes(piece) => self.watcher.push(piece),
            Piece::Silence => None,
            Piece::End => self.watcher.finish(),
        };
        found.iter().for_each(|found| self.extras.save(&self.model, found));
        Ok(piece)
    }

    fn reported_error(&self) -> Option<Error> {
        self.pieces.reported_error()
    }
}
