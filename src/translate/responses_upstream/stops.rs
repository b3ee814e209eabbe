//! Stop sequences of a chat that is answered by `responses`, which has none: they are applied here.
//!
//! Only texts are looked at, as OpenAI does: neither reasoning nor the arguments of calls. Invariant: nothing
//! behind a match is shown, and no text is lost without one.

use serde_json::{Value, json};

use crate::translate::stop_filter::StopFilter;

/// The stop sequences of one request.
#[derive(Debug)]
pub struct StopWatch(StopFilter);

impl StopWatch {
    /// Watches for the texts of a request's `stop`, a text or a list; `None` if there are none.
    pub fn new(stop: &Value) -> Option<Self> {
        let texts: Vec<String> = match stop {
            Value::String(text) => vec![text.clone()],
            Value::Array(texts) => {
                texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        texts.iter().any(|text| !text.is_empty()).then(|| Self(StopFilter::new(texts)))
    }

    /// Cuts the text of a chunk; returns whether the response ends with it.
    pub fn cut_chunk(&mut self, chunk: &mut Value) -> bool {
        let first = chunk.get_mut("choices").and_then(|choices| choices.get_mut(0));
        let Some(choice) = first else { return false };
        let is_last = !choice["finish_reason"].is_null();
        let text = choice["delta"]["content"].as_str().unwrap_or_default();
        let is_piece = !text.is_empty();
        if !is_piece && !is_last {
            return false;
        }
        let mut shown = self.0.push(text);
        let has_matched = self.0.has_matched();
        if has_matched {
            choice["finish_reason"] = "stop".into();
        } else if is_last {
            shown += &self.0.finish();
        }
        if let Some(delta) = choice["delta"].as_object_mut() {
            delta.remove("content");
            if !shown.is_empty() {
                delta.insert("content".to_owned(), shown.into());
            }
            if delta.is_empty() && !is_last && !has_matched {
                chunk["choices"] = json!([]);
            }
        }
        has_matched
    }

    /// Cuts the text of a completion.
    pub fn cut_completion(mut self, completion: &mut Value) {
        let first = completion.get_mut("choices").and_then(|choices| choices.get_mut(0));
        let Some(choice) = first else { return };
        let Some(text) = choice["message"]["content"].as_str() else { return };
        let shown = self.0.push(text);
        if !self.0.has_matched() {
            return;
        }
        choice["message"]["content"] = shown.into();
        choice["finish_reason"] = "stop".into();
        // What the model wrote behind it.
        if let Some(message) = choice["message"].as_object_mut() {
            message.remove("tool_calls");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(content: &str, reason: &Value) -> Value {
        json!({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}]})
    }

    /// The texts of the chunks that are shown, and the last reason.
    fn watched(stop: &Value, pieces: &[&str]) -> (Vec<String>, Value) {
        let mut watch = StopWatch::new(stop).expect("stop sequences");
        let (mut shown, mut reason) = (Vec::new(), Value::Null);
        for (place, piece) in pieces.iter().enumerate() {
            let is_last = place + 1 == pieces.len();
            let end = if is_last { "length".into() } else { Value::Null };
            let mut chunk = chunk(piece, &end);
            let has_ended = watch.cut_chunk(&mut chunk);
            if let Some(choice) = chunk["choices"].get(0) {
                shown.extend(choice["delta"]["content"].as_str().map(str::to_owned));
                reason = choice["finish_reason"].clone();
            }
            if has_ended {
                break;
            }
        }
        (shown, reason)
    }

    #[test]
    fn a_stream_ends_at_the_first_stop_sequence() {
        let (shown, reason) = watched(&json!(["END", "zz"]), &["one E", "ND two", "three"]);
        assert_eq!((shown.concat(), reason), ("one ".to_owned(), json!("stop")));
        let (shown, reason) = watched(&json!("END"), &["one E", "N", ""]);
        assert_eq!((shown.concat(), reason), ("one EN".to_owned(), json!("length")));
        for none in [json!(null), json!([]), json!(""), json!([""]), json!(5)] {
            assert!(StopWatch::new(&none).is_none(), "{none}");
        }
    }

    #[test]
    fn other_members_of_a_chunk_stay() {
        let mut watch = StopWatch::new(&json!("x")).expect("stop sequences");
        let mut reasoning =
            json!({"choices": [{"delta": {"reasoning_content": "x"}, "finish_reason": null}]});
        let before = reasoning.clone();
        assert!(!watch.cut_chunk(&mut reasoning));
        assert_eq!(reasoning, before);
        let mut held = json!({"choices": [{"delta": {"role": "assistant", "content": "a"}}]});
        assert!(!watch.cut_chunk(&mut held));
        assert_eq!(held["choices"][0]["delta"], json!({"role": "assistant", "content": "a"}));
        assert!(!watch.cut_chunk(&mut json!({"choices": []})));
    }

    #[test]
    fn a_completion_is_cut_with_the_calls_behind_it() {
        let completion = |content: &Value| {
            json!({"choices": [{"message": {"content": content, "tool_calls": [1]},
                "finish_reason": "tool_calls"}]})
        };
        let cut = |content: Value| {
            let mut whole = completion(&content);
            StopWatch::new(&json!("END")).expect("stop sequences").cut_completion(&mut whole);
            whole
        };
        let expected = json!({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]});
        assert_eq!(cut("aENDb".into()), expected);
        for content in [json!("ab"), Value::Null] {
            assert_eq!(cut(content.clone()), completion(&content));
        }
    }
}
