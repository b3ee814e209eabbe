//! Random answers of an upstream, as `/v1/responses` tells them: the items stand in the order in which the
//! upstream wrote them, streamed and whole, and a stream that breaks off anywhere keeps the rules.

use std::time::Duration;

use crate::golden::responses::{check_items, check_order};
use crate::support::golden::NOW;
use crate::support::named_events;
use ollama_openai_proxy::api::openai::responses::ResponsesRequest;
use ollama_openai_proxy::api::wire::sse::Event;
use ollama_openai_proxy::error::Error;
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::translate::responses::response_object::{RequestEcho, ResponseIds};
use ollama_openai_proxy::translate::responses::stream::ResponseEncoder;
use ollama_openai_proxy::translate::stream::{
    Completion, Delta, Encoder, ResponseOptions, ResponseTranslator,
};
use ollama_openai_proxy::translate::tool_names::{ToolForm, ToolNames};
use serde_json::{Value, json};

const ROUNDS: usize = 300;

/// A chance that is the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

const FORMS: [(ToolForm, Option<&str>, &str, &str); 6] = [
    (ToolForm::Function, None, "f", "function_call"),
    (ToolForm::Function, Some("mcp__fs"), "read", "function_call"),
    (ToolForm::Custom, None, "apply_patch", "custom_tool_call"),
    (ToolForm::Custom, Some("mcp__fs"), "edit", "custom_tool_call"),
    (ToolForm::ToolSearch, None, "tool_search", "tool_search_call"),
    (ToolForm::LocalShell, None, "local_shell", "local_shell_call"),
];

fn tools() -> ToolNames {
    let mut tools = ToolNames::default();
    for (form, namespace, name, _) in FORMS {
        tools.declare(form, namespace, name);
    }
    tools
}

fn encoder() -> ResponseEncoder {
    let echo = RequestEcho::from_request(&ResponsesRequest::default(), "m");
    ResponseEncoder::new(echo, ResponseIds::new(7), tools())
}

/// The chunks of an answer, and the type and text of each item that they are.
#[derive(Default)]
struct Plan {
    deltas: Vec<Value>,
    items: Vec<(&'static str, String)>,
    calls: usize,
}

impl Plan {
    fn random(chance: &mut Chance) -> Self {
        let mut plan = Self::default();
        for _ in 0..=chance.below(7) {
            match chance.below(4) {
                0 => plan.push_text("reasoning_content", "reasoning", chance),
                1 => plan.push_text("content", "message", chance),
                2 => plan.push_calls(1, chance),
                _ => plan.push_calls(2 + chance.below(2), chance),
            }
        }
        plan
    }

    fn push_text(&mut self, member: &str, kind: &'static str, chance: &mut Chance) {
        for number in 0..=chance.below(3) {
            let text = format!("{kind} {number}, ");
            self.deltas.push(json!({ member: text }));
            match self.items.last_mut().filter(|(last, _)| *last == kind) {
                Some((_, whole)) => whole.push_str(&text),
                None => self.items.push((kind, text)),
            }
        }
    }

    /// Calls of which the pieces come in turns.
    fn push_calls(&mut self, count: usize, chance: &mut Chance) {
        let mut pieces: Vec<Vec<Value>> = Vec::new();
        for index in self.calls..self.calls + count {
            let (_, namespace, name, kind) = FORMS[chance.below(FORMS.len())];
            let text = format!("say \"{index}\"");
            let arguments = json!({"input": text, "command": ["ls"]}).to_string();
            let name = namespace.map_or(name.to_owned(), |it| format!("{it}__{name}"));
            let (start, rest) = arguments.split_at(chance.below(arguments.len()));
            let piece = |function: Value| json!({"index": index, "function": function});
            let mut begin = piece(json!({"name": name, "arguments": start}));
            begin["id"] = format!("call_{index}").into();
            pieces.push(vec![begin, piece(json!({"arguments": rest}))]);
            self.items.push((
                kind,
                match kind {
                    "custom_tool_call" => text,
                    "function_call" => arguments,
                    _ => String::new(),
                },
            ));
        }
        self.calls += count;
        let in_turns = chance.below(2) == 0;
        let places: Vec<(usize, usize)> = if in_turns {
            (0..2).flat_map(|part| (0..count).map(move |call| (call, part))).collect()
        } else {
            (0..count).flat_map(|call| [(call, 0), (call, 1)]).collect()
        };
        for (call, part) in places {
            self.deltas.push(json!({"tool_calls": [pieces[call][part]]}));
        }
    }

    /// What the translator makes of the first `count` chunks, all of them if the stream is whole.
    fn pieces(&self, count: usize) -> (Vec<Delta<'static>>, Option<Completion>) {
        let redactor = Redactor::default();
        let mut state = ResponseTranslator::new(ResponseOptions::default(), &redactor);
        let mut pieces = Vec::new();
        let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
        let chunk = |delta: &Value| json!({"choices": [{ "delta": delta }]});
        let chunks = self.deltas[..count].iter().map(chunk);
        let is_whole = count == self.deltas.len();
        for chunk in chunks.chain(is_whole.then_some(end)) {
            let text = chunk.to_string();
            let found = state.take_pieces(Event::Data(text.as_bytes()), Duration::ZERO);
            pieces.extend(found.expect("no error").into_iter().flatten().map(owned));
        }
        if !is_whole {
            return (pieces, None);
        }
        let outcome = state.finish(Duration::ZERO, Duration::from_secs(1)).expect("an end");
        pieces.push(state.flush());
        (pieces, Some(outcome))
    }
}

fn owned(delta: Delta<'_>) -> Delta<'static> {
    let mut owned = Delta::default();
    owned.append(delta);
    owned
}

#[test]
fn random_answers_keep_their_order_streamed_and_whole() {
    let mut chance = Chance(17);
    for round in 0..ROUNDS {
        let plan = Plan::random(&mut chance);
        let (pieces, outcome) = plan.pieces(plan.deltas.len());
        let outcome = outcome.expect("it is whole");
        let (mut streamed, mut collected) = (encoder(), encoder());
        let (mut out, mut whole, mut sum) = (Vec::new(), Vec::new(), Delta::default());
        for piece in pieces {
            streamed.encode_delta(&mut out, NOW, &piece);
            collected.collect(&piece);
            sum.append(piece);
        }
        streamed.encode_final(&mut out, NOW, &Delta::default(), &outcome);
        collected.encode_whole(&mut whole, NOW, &sum, &outcome);
        let events = named_events(std::str::from_utf8(&out).expect("UTF-8"));
        let case = format!("round {round}: {:?}", plan.deltas);
        check_order(&events, true, &case);
        check_items(&events, true, &case);
        let response: Value = serde_json::from_slice(&whole).expect("JSON");
        assert_eq!(response, events.last().expect("an end")["response"], "{case}");
        let items = response["output"].as_array().expect("items");
        let found: Vec<(&str, String)> = items
            .iter()
            .map(|item| {
                (item["type"].as_str().expect("a type"), super::responses::said(item).to_owned())
            })
            .collect();
        assert_eq!(found, plan.items, "{case}");
        let mut ids: Vec<&Value> = items.iter().map(|item| &item["id"]).collect();
        ids.sort_by_key(|id| id.to_string());
        ids.dedup();
        assert_eq!(ids.len(), items.len(), "{case}");
    }
}

#[test]
fn a_stream_that_breaks_off_anywhere_keeps_the_rules() {
    let mut chance = Chance(18);
    for _ in 0..ROUNDS / 10 {
        let plan = Plan::random(&mut chance);
        for count in 0..plan.deltas.len() {
            let (pieces, _) = plan.pieces(count);
            let (mut encoder, mut out) = (encoder(), Vec::new());
            encoder.encode_start(&mut out, NOW);
            for piece in pieces {
                encoder.encode_delta(&mut out, NOW, &piece);
                encoder.encode_keepalive(&mut out);
            }
            assert!(encoder.encode_failure(&mut out, NOW, &Error::IncompleteStream));
            let events = named_events(std::str::from_utf8(&out).expect("UTF-8"));
            let case = format!("{count} of {:?}", plan.deltas);
            check_order(&events, false, &case);
            check_items(&events, false, &case);
        }
    }
}
