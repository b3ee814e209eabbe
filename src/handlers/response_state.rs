//! What a request of `/v1/responses` refers to, and what is kept of its response.
//!
//! An earlier response by `previous_response_id`, and items by `item_reference`, are put into the input
//! before it is translated; so are summaries of earlier compactions. Never translates an item. Invariant:
//! a request that refers to what is not kept is refused, because its answer would be about another
//! conversation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use super::model_request::PendingReply;
use super::response_store::{Owner, PendingResponse, ResponseStore};
use super::{App, Context};
use crate::api::ollama::decode::non_empty;
use crate::api::openai::responses::ResponsesRequest;
use crate::error::{Error, ErrorCode, Result};
use crate::translate::responses::compaction::encoder::CompactionEncoder;
use crate::translate::responses::compaction::{self, Expanded};
use crate::translate::responses::items::{self, Item};
use crate::translate::responses::stream::ResponseEncoder;
use crate::translate::stream::{Completion, Delta, Encoder};

/// What a request refers to.
pub(super) struct References {
    owner: Owner,
    /// The items of the conversation that the request continues.
    previous: Option<Vec<Arc<str>>>,
    /// The items that it names, by their ids.
    named: HashMap<String, Arc<str>>,
}

/// The input with all that it refers to.
pub(super) struct Input<'r> {
    /// The items, as they are translated.
    pub expanded: Expanded<'r>,
    /// True if they differ from the client's.
    has_changed: bool,
    /// True if the request asks for a compaction.
    pub has_trigger: bool,
}

impl References {
    /// Finds what a request refers to.
    ///
    /// # Errors
    /// [`Error::Coded`] if the response is not kept; [`Error::InvalidRequest`] for what only OpenAI's
    /// servers keep.
    pub(super) fn find(context: &Context<'_>, request: &ResponsesRequest<'_>) -> Result<Self> {
        check_supported(request)?;
        let store = &context.app.responses;
        let header = |name| context.exchange.header(name);
        let owner = store.owner(header("Authorization"), header("x-api-key"));
        let previous = find_previous(store, owner, request)?;
        let named = match request.input {
            Some(input) if items::may_have_references(input) => {
                let items = items::split(Some(input)).unwrap_or_default();
                let references = items::references(&items);
                let ids = items::distinct_ids(&references);
                if ids.is_empty() {
                    HashMap::new()
                } else {
                    store.items(owner, &ids, Instant::now())
                }
            }
            _ => HashMap::new(),
        };
        Ok(Self { owner, previous, named })
    }

    /// True if the request continues an earlier response.
    pub(super) fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    /// The input, with what the request refers to. `None` if it is neither a text nor a list.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for an item that is not kept, [`Error::Coded`] for a trigger that is not
    /// at the end.
    pub(super) fn resolve<'r>(&'r self, input: Option<&'r RawValue>) -> Result<Option<Input<'r>>> {
        let Some(mut items) = items::split(input) else { return Ok(None) };
        let references = match input {
            Some(input) if items::may_have_references(input) => items::references(&items),
            _ => Vec::new(),
        };
        items::resolve(&mut items, &references, &self.named)?;
        let mut has_changed = self.previous.is_some() || !references.is_empty();
        if let Some(previous) = &self.previous {
            let previous = previous.iter().map(|text| Item::Borrowed(text));
            items.splice(..0, previous);
        }
        if !items.iter().any(|item| compaction::is_mentioned(item)) {
            let expanded = Expanded { items, ..Expanded::default() };
            return Ok(Some(Input { expanded, has_changed, has_trigger: false }));
        }
        let has_trigger = compaction::has_trigger(&items)?;
        if has_trigger {
            items.pop();
        }
        let expanded = compaction::expand(items);
        let is_reduced = expanded.summary_at.is_some();
        has_changed |= has_trigger || is_reduced;
        Ok(Some(Input { expanded, has_changed, has_trigger }))
    }

    /// Keeps the items of a request until its response ends, unless the client forbids it.
    pub(super) fn keep<'a>(
        &self,
        app: &'a App,
        request: &ResponsesRequest<'_>,
        input: &Input<'_>,
        response_id: &str,
    ) -> Option<PendingResponse<'a>> {
        let items = input.expanded.items.iter().map(|item| &**item);
        let is_kept = request.store != Some(false);
        is_kept.then(|| app.responses.begin(self.owner, response_id, items, Instant::now()))
    }
}

impl Input<'_> {
    /// Counts the memory of an input that is put together, or copied in another form, as the body's.
    ///
    /// # Errors
    /// [`Error::Busy`] and [`Error::RequestTooLarge`], as for a body.
    pub(super) fn account(&self, context: &mut Context<'_>, is_copied: bool) -> Result<()> {
        if !self.has_changed && !is_copied {
            return Ok(());
        }
        let length = self.expanded.items.iter().map(|item| item.len() + 1).sum();
        context.exchange.charge(length)
    }

    /// The items as one text, if they differ from the client's.
    pub(super) fn join(&self) -> Option<Box<RawValue>> {
        if self.has_changed { items::join(&self.expanded.items) } else { None }
    }
}

/// Rejects what only OpenAI's servers keep. The text is Ollama's.
fn check_supported(request: &ResponsesRequest<'_>) -> Result<()> {
    const TEXT: &str = "background and conversation are not supported; use previous_response_id for \
                        continuation";
    let conversation = request.conversation.map_or("\"\"", RawValue::get);
    let has_conversation = !matches!(conversation, "\"\"" | "null");
    if has_conversation || request.background == Some(true) {
        return Err(Error::invalid_request(TEXT));
    }
    Ok(())
}

fn find_previous(
    store: &ResponseStore,
    owner: Owner,
    request: &ResponsesRequest<'_>,
) -> Result<Option<Vec<Arc<str>>>> {
    const TEXT: &str =
        "previous_response_id was not found or has expired; resend the full conversation";
    let Some(id) = non_empty(request.previous_response_id.as_deref()) else { return Ok(None) };
    let found = store.conversation(owner, id, Instant::now());
    let missing = || Error::Coded(ErrorCode::PREVIOUS_RESPONSE_NOT_FOUND, TEXT.to_owned());
    found.map(Some).ok_or_else(missing)
}

/// What is known of a response when the upstream was asked.
pub(super) struct Started<'a> {
    /// The upstream's answer, or why there is none.
    pub reply: Result<PendingReply<'a>>,
    pub encoder: KeepingEncoder<'a>,
    pub stream: bool,
}

/// Writes a response, and keeps its output as soon as it is complete: before the client can know that it is.
pub(super) struct KeepingEncoder<'s> {
    events: ResponseEncoder,
    /// What is written instead of the model's answer.
    compaction: Option<CompactionEncoder>,
    pending: Option<PendingResponse<'s>>,
}

impl<'s> KeepingEncoder<'s> {
    /// An encoder of a response that has not ended; without `pending` it is not kept.
    pub(super) fn new(
        events: ResponseEncoder,
        compaction: Option<CompactionEncoder>,
        pending: Option<PendingResponse<'s>>,
    ) -> Self {
        Self { events, compaction, pending }
    }

    fn keep(&mut self) {
        if let Some(mut pending) = self.pending.take() {
            pending.complete(self.events.output_json(), Instant::now());
        }
    }
}

impl Encoder for KeepingEncoder<'_> {
    const IS_SSE: bool = true;
    const KEEPS_ANSWER: bool = true;

    fn encode_start(&mut self, out: &mut Vec<u8>, created_at: &str) {
        self.events.encode_start(out, created_at);
    }

    fn encode_keepalive(&mut self, out: &mut Vec<u8>) {
        self.events.encode_keepalive(out);
    }

    fn encode_failure(&mut self, out: &mut Vec<u8>, created_at: &str, error: &Error) -> bool {
        self.events.encode_failure(out, created_at, error)
    }

    fn check_complete(&self, rest: &Delta<'_>) -> Result<()> {
        self.compaction.as_ref().map_or(Ok(()), |compaction| compaction.check_complete(rest))
    }

    fn encode_delta(&mut self, out: &mut Vec<u8>, created_at: &str, delta: &Delta<'_>) {
        match &mut self.compaction {
            Some(compaction) => compaction.append(delta),
            None => self.events.encode_delta(out, created_at, delta),
        }
    }

    fn encode_final(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        let no_rest = Delta::default();
        let rest = match &mut self.compaction {
            Some(compaction) => {
                compaction.append(rest);
                self.events.encode_start(out, created_at);
                self.events.write_whole_item(out, compaction.item());
                &no_rest
            }
            None => rest,
        };
        self.events.encode_final(out, created_at, rest, outcome);
        self.keep();
    }

    fn collect(&mut self, piece: &Delta<'_>) {
        if self.compaction.is_none() {
            self.events.collect(piece);
        }
    }

    fn encode_whole(
        &mut self,
        out: &mut Vec<u8>,
        created_at: &str,
        rest: &Delta<'_>,
        outcome: &Completion,
    ) {
        match &mut self.compaction {
            Some(compaction) => {
                compaction.append(rest);
                compaction.encode_whole(out, created_at, outcome);
            }
            None => self.events.encode_whole(out, created_at, rest, outcome),
        }
        self.keep();
    }
}
