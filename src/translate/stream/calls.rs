//! The calls of a response, among its texts.
//!
//! A call is shown once, whole: when another one begins, when text follows, or at the end. Never assembles
//! calls, which is the part of `tool_calls`. Invariant: text that the model wrote behind a call is shown behind
//! it.

use std::time::Duration;

use super::finish_reason::FinishReason;
use super::{Delta, ResponseTranslator};
use crate::api::wire::sse::Event;
use crate::error::Result;
use crate::translate::tool_calls::CompleteToolCall;

impl ResponseTranslator<'_> {
    /// What an event adds and the calls that have become complete, in the order in which the client is to see
    /// them.
    ///
    /// # Errors
    /// Those of [`Self::on_event`].
    pub fn take_pieces<'a>(
        &mut self,
        event: Event<'a>,
        now: Duration,
    ) -> Result<[Option<Delta<'a>>; 2]> {
        let delta = self.on_event(event, now)?;
        let calls = self.take_complete_calls();
        let is_behind = std::mem::take(&mut self.has_text_behind_calls);
        Ok(if is_behind { [calls, delta] } else { [delta, calls] })
    }

    /// Bytes of all calls so far, which are held until the end of the response.
    pub fn call_bytes(&self) -> usize {
        self.tool_calls.received_bytes()
    }

    /// Takes out the complete calls. A call that the token limit cut off is dropped, and the response
    /// ends with `length`: the client would repeat a request that failed, and pay for the same again.
    pub(super) fn take_calls(&mut self) -> Vec<CompleteToolCall> {
        if self.finish_reason == Some(FinishReason::Length) {
            self.has_cut_off_call |= self.tool_calls.drop_cut_off();
        }
        let has_ended = self.is_complete() || self.has_text_behind_calls;
        let mut calls = self.tool_calls.take_complete(has_ended);
        // The upstream may know a function by another name than the client.
        for call in &mut calls {
            let names = self.options.effects.tool_names.iter();
            if let Some((_, own)) = names.into_iter().find(|(sent, _)| *sent == call.name) {
                call.name.clone_from(own);
            }
        }
        self.extras.calls.extend_from_slice(&calls);
        calls
    }

    /// Calls that have become complete, to be shown in a line of their own.
    pub fn take_complete_calls(&mut self) -> Option<Delta<'static>> {
        let calls = self.take_calls();
        (!calls.is_empty()).then(|| Delta { calls, ..Delta::default() })
    }
}
