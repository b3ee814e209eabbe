//! Responses to passed-on requests that had to be asked for in another form than the client's.
//!
//! A stream is collected for a client that asked for a whole response of a model that only streams, and a
//! response of the `responses` route becomes one of `chat/completions`. Never touches any other response.
//! Invariant: a whole response is sent only once it is complete, and `[DONE]` only behind a complete stream.

use std::time::Instant;

use serde_json::{Value, json};

use super::pass_response::{PassPieces, PassResponse, PassResponseBody, Piece};
use super::{Client, EventStream, UpstreamResponse, Waited};
use crate::api::openai::pass_head::PassHead;
use crate::api::openai::raw_object::RawObject;
use crate::api::wire::sse::Event;
use crate::backends::errors;
use crate::error::{Error, Result};
use crate::observe::redact::Redactor;
use crate::translate::collected_completion::CompletionCollector;
use crate::translate::custom_calls::{self, CustomCalls};
use crate::translate::responses_upstream::chunks::{ChunkMapper, Mapped, to_completion};
use crate::translate::responses_upstream::stops::StopWatch;

/// What the client asked for, and what was asked for instead.
#[derive(Clone, Debug)]
pub(super) struct Conversion {
    /// True for a response of `responses`.
    pub is_for_responses: bool,
    wants_stream: bool,
    wants_usage: bool,
    /// The client's `stop`, which `responses` does not have.
    stop: Value,
    /// The tools that take free text and were sent as functions.
    custom_tools: Vec<String>,
}

impl Conversion {
    pub(super) fn new(
        request: &RawObject<'_>,
        is_for_responses: bool,
        custom_tools: &[String],
    ) -> Self {
        let options = request.get("stream_options").and_then(RawObject::parse);
        Self {
            is_for_responses,
            wants_stream: request.get("stream") == Some("true"),
            wants_usage: options.is_some_and(|it| it.get("include_usage") == Some("true")),
            stop: request
                .get("stop")
                .filter(|_| is_for_responses)
                .and_then(|stop| serde_json::from_str(stop).ok())
                .unwrap_or_default(),
            custom_tools: custom_tools.to_vec(),
        }
    }

    /// Whether the response to a request of this kind comes in another form than the client's.
    pub(super) fn is_needed(&self, is_stream: bool) -> bool {
        let has_custom = !self.custom_tools.is_empty();
        self.is_for_responses || has_custom || self.wants_stream != is_stream
    }
}

impl Client {
    /// Makes the response that the client asked for.
    ///
    /// # Errors
    /// Those of a stream that is collected.
    pub(super) fn convert(
        &self,
        response: UpstreamResponse,
        conversion: Conversion,
    ) -> Result<PassResponse> {
        let mapper = conversion.is_for_responses.then(ChunkMapper::default);
        let stops = StopWatch::new(&conversion.stop);
        let custom = CustomCalls::new(&conversion.custom_tools);
        match response {
            UpstreamResponse::Whole(body) => {
                let mut converted = if mapper.is_some() { to_completion(&body) } else { None };
                if let Some(custom) = &custom {
                    converted = converted.or_else(|| serde_json::from_str(&body).ok());
                    converted.iter_mut().for_each(|it| custom.map_whole(it));
                }
                if let (Some(completion), Some(stops)) = (&mut converted, stops) {
                    stops.cut_completion(completion);
                }
                let body = converted.map_or(body, |value| value.to_string()).into_bytes();
                Ok(whole_response(body))
            }
            UpstreamResponse::Stream(events) if conversion.wants_stream => {
                let includes_usage = conversion.wants_usage;
                let stream = ChunkStream::new(
                    events,
                    (mapper, stops, custom),
                    includes_usage,
                    &self.redactor,
                );
                let head = PassHead::of_type("text/event-stream");
                Ok(PassResponse {
                    head,
                    body: PassResponseBody::Stream(Box::new(stream)),
                    error: None,
                })
            }
            UpstreamResponse::Stream(events) => {
                let mut body = collect(events, (mapper, stops), &self.redactor)?;
                custom.iter().for_each(|custom| custom.map_whole(&mut body));
                Ok(whole_response(body.to_string().into_bytes()))
            }
        }
    }
}

fn whole_response(body: Vec<u8>) -> PassResponse {
    let error = errors::find_in_band_error(&body);
    PassResponse {
        head: PassHead::of_type("application/json"),
        body: PassResponseBody::Whole(body),
        error,
    }
}

/// Collects a stream into one completion.
fn collect(
    mut events: Box<EventStream>,
    (mut mapper, mut stops): (Option<ChunkMapper>, Option<StopWatch>),
    redactor: &Redactor,
) -> Result<Value> {
    let mut collector = CompletionCollector::default();
    let mut is_done = false;
    loop {
        while let Some(event) = events.try_next()? {
            let (data, is_error) = match event {
                Event::Data(data) => (String::from_utf8_lossy(data), false),
                Event::Error(data) => (String::from_utf8_lossy(data), true),
            };
            is_done |= data.trim_start().starts_with("[DONE]");
            let mut chunk = match mapper.as_mut().map_or(Mapped::Other, |mapper| mapper.map(&data))
            {
                Mapped::Chunk(chunk) => chunk,
                Mapped::Error(error) => return Err(in_band_error(&error.to_string(), redactor)),
                Mapped::Other
                    if is_error || errors::find_in_band_error(data.as_bytes()).is_some() =>
                {
                    return Err(in_band_error(&data, redactor));
                }
                Mapped::Other => serde_json::from_str(&data).unwrap_or_default(),
            };
            let has_stopped = stops.as_mut().is_some_and(|stops| stops.cut_chunk(&mut chunk));
            collector.push(chunk);
            if has_stopped {
                // What the upstream still writes is not read: its connection closes.
                return Ok(collector.finish());
            }
        }
        events.check_size()?;
        let is_complete = collector.is_complete();
        is_done |= mapper.as_ref().is_some_and(ChunkMapper::is_finished);
        if is_done {
            break;
        }
        match events.wait_for_data() {
            Ok(true) => {}
            Err(error) if !is_complete => return Err(error),
            // Nothing is missing behind the last reason.
            _ if is_complete => break,
            _ => return Err(Error::IncompleteStream),
        }
    }
    if collector.is_empty() {
        return Err(Error::upstream_protocol("a stream without choices"));
    }
    events.drain();
    Ok(collector.finish())
}

fn in_band_error(data: &str, redactor: &Redactor) -> Error {
    errors::to_in_band_error(data, None, redactor)
}

/// A stream of `responses` as one of `chat/completions`, or one whose calls get another form.
struct ChunkStream {
    events: Box<EventStream>,
    /// `None` for events that are chunks.
    mapper: Option<ChunkMapper>,
    stops: Option<StopWatch>,
    custom: Option<CustomCalls>,
    /// The last chunk, if calls are held.
    last_chunk: Value,
    includes_usage: bool,
    redactor: Redactor,
    buffer: Vec<u8>,
    error: Option<Error>,
    has_reason: bool,
    is_ended: bool,
}

impl ChunkStream {
    fn new(
        events: Box<EventStream>,
        (mapper, stops, custom): (Option<ChunkMapper>, Option<StopWatch>, Option<CustomCalls>),
        includes_usage: bool,
        redactor: &Redactor,
    ) -> Self {
        let (redactor, buffer) = (redactor.clone(), Vec::new());
        Self {
            events,
            mapper,
            stops,
            custom,
            last_chunk: Value::Null,
            includes_usage,
            redactor,
            buffer,
            error: None,
            has_reason: false,
            is_ended: false,
        }
    }

    /// Maps all events that have arrived.
    fn map_events(&mut self) -> Result<()> {
        self.buffer.clear();
        while let Some(event) = self.events.try_next()? {
            let (data, is_error) = match event {
                Event::Data(data) => (String::from_utf8_lossy(data), false),
                Event::Error(data) => (String::from_utf8_lossy(data), true),
            };
            let Some(mapper) = &mut self.mapper else {
                let is_error = is_error || errors::find_in_band_error(data.as_bytes()).is_some();
                let data = data.into_owned();
                self.pass_chunk(&data, is_error);
                continue;
            };
            let error = match mapper.map(&data) {
                Mapped::Chunk(mut chunk) => {
                    let _ = self.custom.as_mut().map(|custom| custom.map_chunk(&mut chunk));
                    let stops = self.stops.as_mut();
                    let has_stopped = stops.is_some_and(|stops| stops.cut_chunk(&mut chunk));
                    write_chunk(&mut self.buffer, chunk, self.includes_usage);
                    if has_stopped {
                        self.finish();
                        return Ok(());
                    }
                    continue;
                }
                Mapped::Error(error) => error.to_string(),
                Mapped::Other
                    if is_error || errors::find_in_band_error(data.as_bytes()).is_some() =>
                {
                    data.into_owned()
                }
                Mapped::Other => continue,
            };
            let error = in_band_error(&error, &self.redactor);
            let body = json!({"error": {"message": error.message(), "type": "server_error",
                "code": null, "param": null}});
            write_event(&mut self.buffer, &body);
            (self.error, self.is_ended) = (Some(error), true);
        }
        let is_finished = self.mapper.as_ref().is_some_and(ChunkMapper::is_finished);
        if is_finished && !self.is_ended {
            self.finish();
        }
        Ok(())
    }

    /// Passes an event on as it is, but for its calls.
    fn pass_chunk(&mut self, data: &str, is_error: bool) {
        if self.is_ended {
            return;
        }
        if data.trim_start().starts_with("[DONE]") {
            return self.finish();
        }
        if is_error {
            self.error = Some(in_band_error(data, &self.redactor));
        }
        let chunk: Value = serde_json::from_str(data).unwrap_or_default();
        let (mut changed, custom) = (chunk.clone(), self.custom.as_mut());
        let is_changed = custom.is_some_and(|custom| custom.map_chunk(&mut changed));
        match is_changed {
            false => write_data(&mut self.buffer, &self.redactor.redact(data)),
            true if custom_calls::is_spent(&changed) => {}
            true => write_event(&mut self.buffer, &changed),
        }
        self.has_reason |= chunk["choices"][0]["finish_reason"].is_string();
        self.last_chunk = chunk;
    }

    fn finish(&mut self) {
        let held = self.custom.as_mut().and_then(|custom| custom.finish(&self.last_chunk));
        if let Some(chunk) = held {
            write_event(&mut self.buffer, &chunk);
        }
        self.buffer.extend_from_slice(b"data: [DONE]\n\n");
        self.is_ended = true;
    }
}

impl PassPieces for ChunkStream {
    fn next_piece(&mut self, wake_at: Option<Instant>) -> Result<Piece<'_>> {
        loop {
            if self.is_ended {
                return Ok(Piece::End);
            }
            self.map_events()?;
            if self.custom.is_some() {
                // Calls are held until they are whole.
                self.events.hold_collected()?;
            }
            if !self.buffer.is_empty() {
                return Ok(Piece::Bytes(&self.buffer));
            }
            match self.events.wait_until(wake_at)? {
                Waited::Data => {}
                Waited::Silence => return Ok(Piece::Silence),
                // Nothing is missing behind the reason.
                Waited::End if self.has_reason => {
                    self.buffer.clear();
                    self.finish();
                    return Ok(Piece::Bytes(&self.buffer));
                }
                Waited::End => return Err(Error::IncompleteStream),
            }
        }
    }

    fn reported_error(&self) -> Option<Error> {
        self.error.clone()
    }
}

/// Writes a chunk; token counts are a chunk of their own, and only where they are asked for.
fn write_chunk(buffer: &mut Vec<u8>, mut chunk: Value, includes_usage: bool) {
    let usage = chunk.as_object_mut().and_then(|chunk| chunk.remove("usage"));
    if chunk["choices"].as_array().is_some_and(|choices| !choices.is_empty()) {
        write_event(buffer, &chunk);
    }
    if let Some(usage) = usage.filter(|_| includes_usage) {
        (chunk["choices"], chunk["usage"]) = (json!([]), usage);
        write_event(buffer, &chunk);
    }
}

fn write_event(buffer: &mut Vec<u8>, data: &Value) {
    write_data(buffer, &data.to_string());
}

fn write_data(buffer: &mut Vec<u8>, data: &str) {
    // Data of several lines has that many lines of its own.
    for line in data.split('\n') {
        buffer.extend_from_slice(b"data: ");
        buffer.extend_from_slice(line.as_bytes());
        buffer.push(b'\n');
    }
    buffer.push(b'\n');
}
