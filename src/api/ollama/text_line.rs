//! Lines that carry nothing but text, written by hand: one for each token of a stream.
//!
//! Invariant: they are what [`super::response`] serialises, byte for byte (a test compares), in a
//! third of the time, because no writer, formatter or optional member is involved (`cargo bench --
//! chat_delta`). All other lines are serialised.

use crate::api::wire::ndjson;

/// Appends a line of `/api/chat`.
pub fn append_chat(out: &mut Vec<u8>, model: &str, created_at: &str, content: &str) {
    let before = "\",\"message\":{\"role\":\"assistant\",\"content\":";
    append_line(out, (model, created_at), (before, content, "},\"done\":false}\n"));
}

/// Appends a line of `/api/generate`.
pub fn append_generate(out: &mut Vec<u8>, model: &str, created_at: &str, response: &str) {
    append_line(out, (model, created_at), ("\",\"response\":", response, ",\"done\":false}\n"));
}

fn append_line(
    out: &mut Vec<u8>,
    (model, created_at): (&str, &str),
    (before, text, behind): (&str, &str, &str),
) {
    out.extend_from_slice(b"{\"model\":");
    ndjson::append_text(out, model);
    out.extend_from_slice(b",\"created_at\":\"");
    // A timestamp of the proxy needs no escape.
    out.extend_from_slice(created_at.as_bytes());
    out.extend_from_slice(before.as_bytes());
    ndjson::append_text(out, text);
    out.extend_from_slice(behind.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ollama::response::{ChatResponse, GenerateResponse, ResponseMessage};

    const NOW: &str = "2026-08-21T10:15:03.123456789Z";

    #[test]
    fn a_line_is_what_serialising_it_gives() {
        for text in
            ["", "Hi", " \"q\" \\ \n\t\u{1}", "<a>&b", "é😀\u{2028}\u{85}", "}", "{\"a\":1}"]
        {
            for model in ["m", "a/b:latest", "\"<odd>\u{2029}"] {
                let (mut by_hand, mut serialised) = (b"x".to_vec(), b"x".to_vec());
                append_chat(&mut by_hand, model, NOW, text);
                append_generate(&mut by_hand, model, NOW, text);
                let message = ResponseMessage {
                    role: "assistant",
                    content: text,
                    thinking: "",
                    tool_calls: Vec::new(),
                };
                let answer = ChatResponse {
                    model,
                    created_at: NOW,
                    message,
                    done: false,
                    done_reason: None,
                    logprobs: &[],
                    metrics: None,
                };
                ndjson::append_line(&mut serialised, &answer);
                let answer = GenerateResponse {
                    model,
                    created_at: NOW,
                    response: text,
                    thinking: "",
                    done: false,
                    done_reason: None,
                    context: &[],
                    metrics: None,
                    logprobs: &[],
                };
                ndjson::append_line(&mut serialised, &answer);
                assert_eq!(String::from_utf8(by_hand), String::from_utf8(serialised));
            }
        }
    }
}
