//! The inputs of the benchmarks: streams of each upstream family, whole responses, requests and
//! lists. All are generated from fixed numbers, so every run has the same bytes.

use std::fmt::Write;

use serde_json::{Value, json};

/// Tokens of a stream.
pub const TOKENS: usize = 256;

/// The name of the model, for clients and upstreams.
pub const MODEL: &str = "gpt-4o-mini";

/// The upstream family of a stream, or its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    OpenAi,
    LlamaCpp,
    Vllm,
    OpenRouter,
    /// Half of the tokens are reasoning.
    DeepSeek,
    /// Four calls, their arguments in pieces.
    Tools,
    /// Five alternatives for each token.
    Logprobs,
    /// Letters beyond ASCII, and escapes that cannot be borrowed.
    Escaped,
}

pub const KINDS: [Kind; 8] = [
    Kind::OpenAi,
    Kind::LlamaCpp,
    Kind::Vllm,
    Kind::OpenRouter,
    Kind::DeepSeek,
    Kind::Tools,
    Kind::Logprobs,
    Kind::Escaped,
];

/// Calls of [`Kind::Tools`].
pub const CALLS: usize = 4;

/// Words of about the length of tokens, all different.
pub fn word(number: usize) -> String {
    const STEMS: [&str; 8] = [" the", " of", " token", " a", " stream", " is", " number", " and"];
    format!("{}{number}", STEMS[number % STEMS.len()])
}

/// Some bytes of text without anything to be escaped.
pub fn text(bytes: usize) -> String {
    let mut text: String = (0..)
        .map(word)
        .scan(0, |length, word| {
            let begun = *length < bytes;
            *length += word.len();
            begun.then_some(word)
        })
        .collect();
    text.truncate(bytes);
    text
}

/// Numbers that look random, between -1 and 1.
pub fn noise() -> impl Iterator<Item = f64> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        #[allow(clippy::cast_precision_loss)] // It is noise.
        let number = (state >> 11) as f64 / (1_u64 << 52) as f64;
        number - 1.0
    })
}

/// The body of a stream of [`TOKENS`] tokens, or pieces of calls.
pub fn stream(kind: Kind) -> Vec<u8> {
    // OpenRouter's, while the model has not begun.
    let waiting = if kind == Kind::OpenRouter { 3 } else { 0 };
    let mut body = ": OPENROUTER PROCESSING\n\n".repeat(waiting);
    let mut send = |data: &str| {
        writeln!(body, "data: {data}\n").expect("a String takes all");
    };
    let chunk = |delta: &str, more: &str| chunk(kind, delta, more);
    let first = match kind {
        Kind::LlamaCpp | Kind::Tools => r#"{"role":"assistant","content":null}"#,
        Kind::DeepSeek => r#"{"role":"assistant","content":null,"reasoning_content":""}"#,
        Kind::OpenAi => r#"{"role":"assistant","content":"","refusal":null}"#,
        _ => r#"{"role":"assistant","content":""}"#,
    };
    send(&chunk(first, "null"));
    for number in 0..TOKENS {
        let (delta, logprobs) = (delta(kind, number), logprobs(kind, number));
        send(&chunk(&delta, &logprobs));
    }
    let reason = if kind == Kind::Tools { "tool_calls" } else { "stop" };
    let end = chunk("{}", "null");
    send(&end.replace(r#""finish_reason":null"#, &format!(r#""finish_reason":"{reason}""#)));
    send(&last(kind));
    send("[DONE]");
    body.into_bytes()
}

/// What the token of this number adds.
fn delta(kind: Kind, number: usize) -> String {
    let word = word(number);
    match kind {
        Kind::OpenRouter => {
            format!(
                r#"{{"role":"assistant","content":"{word}","reasoning":null,"reasoning_details":[]}}"#
            )
        }
        Kind::DeepSeek if number < TOKENS / 2 => {
            format!(r#"{{"content":null,"reasoning_content":"{word}"}}"#)
        }
        Kind::DeepSeek => format!(r#"{{"content":"{word}","reasoning_content":null}}"#),
        Kind::Tools => call(number),
        Kind::Escaped => {
            const PIECES: [&str; 4] =
                [" größer", r" \u00e9t\u00e9", r#"\n\t\"x\" < y"#, "\u{3068} &"];
            format!(r#"{{"content":"{}{number}"}}"#, PIECES[number % PIECES.len()])
        }
        _ => format!(r#"{{"content":"{word}"}}"#),
    }
}

/// A piece of a call. Its arguments are one object with a long text.
fn call(number: usize) -> String {
    const PIECES: usize = TOKENS / CALLS;
    let (index, piece) = (number / PIECES, number % PIECES);
    let arguments = match piece {
        0 => {
            return format!(
                r#"{{"tool_calls":[{{"index":{index},"id":"call_{index}","type":"function","function":{{"name":"write_file","arguments":""}}}}]}}"#
            );
        }
        1 => r#"{\"path\":\"notes.txt\",\"text\":\""#.to_owned(),
        _ if piece == PIECES - 1 => r#"\"}"#.to_owned(),
        _ => word(number),
    };
    format!(r#"{{"tool_calls":[{{"index":{index},"function":{{"arguments":"{arguments}"}}}}]}}"#)
}

fn logprobs(kind: Kind, number: usize) -> String {
    if kind != Kind::Logprobs {
        return "null".to_owned();
    }
    let token = |number: usize| {
        let word = word(number);
        #[allow(clippy::cast_precision_loss)] // It is small.
        let logprob = -0.123_456_78 * (number % 7 + 1) as f64;
        json!({"token": word, "logprob": logprob, "bytes": word.as_bytes()})
    };
    let mut chosen = token(number);
    chosen["top_logprobs"] = (number..number + 5).map(token).collect();
    json!({"content": [chosen], "refusal": null}).to_string()
}

/// A chunk as the family writes it: members, order and length.
fn chunk(kind: Kind, delta: &str, logprobs: &str) -> String {
    let object = r#""object":"chat.completion.chunk","created":1760000000"#;
    match kind {
        Kind::OpenAi | Kind::Tools | Kind::Logprobs | Kind::Escaped => format!(
            r#"{{"id":"chatcmpl-CKx0aT3mPzVq8Wn5dYbRfHjL2sUe",{object},"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_560af6e559","choices":[{{"index":0,"delta":{delta},"logprobs":{logprobs},"finish_reason":null}}],"usage":null,"obfuscation":"qN4vT7"}}"#
        ),
        Kind::LlamaCpp => format!(
            r#"{{"choices":[{{"finish_reason":null,"index":0,"delta":{delta}}}],"created":1760000000,"id":"chatcmpl-Yw3nB7kLq0aX5tRzE9mVhC2sDpGfJu8i","model":"Qwen3-4B-Q4_K_M.gguf","system_fingerprint":"b6730-e60f01d9","object":"chat.completion.chunk"}}"#
        ),
        Kind::Vllm => format!(
            r#"{{"id":"chatcmpl-5f0c2a9e8b7d4c61a3e2f1d0c9b8a796",{object},"model":"Qwen/Qwen3-8B","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null,"token_ids":null}}]}}"#
        ),
        Kind::OpenRouter => format!(
            r#"{{"id":"gen-1760000000-h7Qm2XcVb5NzKp0LrTyW","provider":"DeepInfra","model":"deepseek/deepseek-chat-v3.1",{object},"choices":[{{"index":0,"delta":{delta},"finish_reason":null,"native_finish_reason":null,"logprobs":null}}]}}"#
        ),
        Kind::DeepSeek => format!(
            r#"{{"id":"3f1b7c52-08de-4a6b-9c10-5d2e7f8a9b04",{object},"model":"deepseek-reasoner","system_fingerprint":"fp_ffc7281d48_prod0820_fp8_kvcache","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]}}"#
        ),
    }
}

/// The chunk with the counts; llama.cpp adds its times.
fn last(kind: Kind) -> String {
    let usage = json!({"prompt_tokens": 19, "completion_tokens": TOKENS, "total_tokens": 19 + TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0}});
    let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk",
        "created": 1_760_000_000, "model": MODEL, "choices": [], "usage": usage});
    if kind == Kind::LlamaCpp {
        chunk["timings"] = json!({"cache_n": 0, "prompt_n": 19, "prompt_ms": 61.209,
            "prompt_per_token_ms": 3.2215, "prompt_per_second": 310.41, "predicted_n": TOKENS,
            "predicted_ms": 4021.77, "predicted_per_token_ms": 15.71, "predicted_per_second": 63.65});
    }
    chunk.to_string()
}

/// The data of each event of a stream that was made here.
pub fn events(body: &[u8]) -> Vec<&[u8]> {
    body.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: ")).collect()
}

/// A whole answer with as much as a stream has.
pub fn whole(kind: Kind) -> String {
    let text: String = (0..TOKENS).map(word).collect();
    let mut message = json!({"role": "assistant", "content": text, "refusal": null,
        "annotations": []});
    match kind {
        Kind::DeepSeek => message["reasoning_content"] = text.into(),
        Kind::Escaped => message["content"] = text.replace(" a", " \"été\"\n<").into(),
        Kind::Tools => {
            let arguments = json!({"path": "notes.txt", "text": text}).to_string();
            let function = json!({"name": "write_file", "arguments": arguments});
            message["content"] = Value::Null;
            message["tool_calls"] = (0..CALLS)
                .map(|it| json!({"id": format!("call_{it}"), "type": "function", "function": function}))
                .collect();
        }
        _ => {}
    }
    json!({"id": "chatcmpl-CKx0aT3mPzVq8Wn5dYbRfHjL2sUe", "object": "chat.completion",
        "created": 1_760_000_000, "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 19, "completion_tokens": TOKENS, "total_tokens": 19 + TOKENS},
        "service_tier": "default", "system_fingerprint": "fp_560af6e559"})
    .to_string()
}

/// The body of an answer with vectors, as OpenAI writes its numbers.
pub fn embeddings(count: usize, size: usize, unit_length: bool) -> String {
    let mut numbers = noise();
    let mut data = String::new();
    for index in 0..count {
        let vector: Vec<f64> = numbers.by_ref().take(size).collect();
        let length = vector.iter().map(|number| number * number).sum::<f64>().sqrt();
        let scale = if unit_length { length } else { length * 0.7 };
        let digits = |number: &f64| match number / scale {
            small if small.abs() < 1e-4 => format!("{small:.8e}"),
            other => format!("{other:.10}"),
        };
        let list = vector.iter().map(digits).collect::<Vec<_>>().join(",");
        let comma = if index > 0 { "," } else { "" };
        write!(data, r#"{comma}{{"object":"embedding","index":{index},"embedding":[{list}]}}"#)
            .expect("a String takes all");
    }
    let usage = r#"{"prompt_tokens":2048,"total_tokens":2048}"#;
    format!(
        r#"{{"object":"list","data":[{data}],"model":"text-embedding-3-small","usage":{usage}}}"#
    )
}

/// A model list.
pub fn models(count: usize) -> String {
    const NAMES: [&str; 6] = [
        "qwen/qwen3-32b",
        "meta-llama/llama-3.3-70b-instruct",
        "gpt-4o-mini",
        "mistral-small-2506",
        "text-embedding-3-small",
        "acme/house-model",
    ];
    let entry = |number: usize| {
        json!({"id": format!("{}-{number}", NAMES[number % NAMES.len()]), "object": "model",
            "created": 1_700_000_000 + number, "owned_by": "acme"})
    };
    json!({"object": "list", "data": (0..count).map(entry).collect::<Value>()}).to_string()
}

/// The body of a chat request of one turn.
pub fn short_chat() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "options": {"temperature": 0.7, "num_ctx": 8192}})
}

/// A conversation of 40 turns, 20 kB in all.
pub fn conversation() -> Value {
    let turn = |number: usize| {
        let role = if number.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": format!("{}\n\"quoted\"", text(480))})
    };
    json!({"model": MODEL, "messages": (0..40).map(turn).collect::<Value>()})
}

/// A short question with ten functions.
pub fn with_tools() -> Value {
    let tool = |number: usize| {
        json!({"type": "function", "function": {"name": format!("tool_{number}"),
            "description": text(120),
            "parameters": {"type": "object", "required": ["path"], "properties": {
                "path": {"type": "string", "description": "Where it is."},
                "lines": {"type": "array", "items": {"type": "integer"}},
                "mode": {"type": "string", "enum": ["read", "write", "append"]}}}}})
    };
    let mut body = short_chat();
    body["tools"] = (0..10).map(tool).collect();
    body
}

/// A question about an image of a million bytes.
pub fn with_image() -> Value {
    // A PNG by its first bytes; base64 of what begins so begins with `iVBORw0KGgo`.
    let mut image = "iVBORw0KGgo".to_owned();
    image.extend("Ab3+dE7/".chars().cycle().take(1_000_000 / 3 * 4 - image.len()));
    let mut body = short_chat();
    body["messages"][0]["images"] = json!([image]);
    body
}

/// The body of `/api/generate`.
pub fn generate() -> Value {
    json!({"model": MODEL, "prompt": text(400), "system": "You are terse.",
        "options": {"temperature": 0.7, "stop": ["###"]}})
}

/// The body of `/api/embed` with 256 inputs.
pub fn embed() -> Value {
    json!({"model": MODEL, "input": (0..256).map(|it| format!("{it}{}", text(100))).collect::<Value>()})
}
