//! The answers of the scripted upstream, as an OpenAI server words them, prepared once as the bytes
//! that go to the socket. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;

use super::request::{Endpoint, Request};
use crate::model::{Kind, LISTED};

/// The text of the whole answer.
pub const SHORT_TEXT: &str = "One two three four five six seven eight nine ten eleven twelve.";
/// More answers than this are not kept; they are large.
const MAX_KEPT: usize = 32;
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
    Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
const COMMON: &str = "\"object\":\"chat.completion.chunk\",\"created\":1700000000";

/// What a request is answered with.
pub enum Answer {
    /// Bytes that are all ready.
    Whole(Rc<[u8]>),
    /// Tokens at their times.
    Paced(Paced),
}

/// A paced stream.
pub struct Paced {
    /// Head and role chunk.
    pub head: Rc<[u8]>,
    /// What follows the last token.
    pub tail: Rc<[u8]>,
    /// Tokens a second.
    pub rate: f64,
    /// How many tokens.
    pub count: u64,
    before: String,
    after: String,
}

impl Paced {
    /// Writes the frame of a token made at the time given, in place of what the buffer holds.
    pub fn token(&self, now: u64, frame: &mut Vec<u8>) {
        let (mut digits, mut first) = ([0u8; 20], 20);
        let mut rest = now;
        while rest > 0 || first == 20 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let length = self.before.len() + digits.len() - first + self.after.len();
        let hex = |shift: u32| b"0123456789abcdef"[length >> shift & 15];
        frame.clear();
        frame.extend_from_slice(&[hex(8), hex(4), hex(0), b'\r', b'\n']);
        frame.extend_from_slice(self.before.as_bytes());
        frame.extend_from_slice(&digits[first..]);
        frame.extend_from_slice(self.after.as_bytes());
        frame.extend_from_slice(b"\r\n");
    }
}

/// All answers that were asked for so far, each prepared once.
#[derive(Default)]
pub struct Answers {
    chats: [HashMap<Vec<u8>, Rc<Answer>>; 2],
    embeddings: HashMap<Vec<u8>, Rc<Answer>>,
}

impl Answers {
    /// What the request is answered with.
    pub fn of(&mut self, request: &Request) -> Rc<Answer> {
        let kept = match request.endpoint {
            Endpoint::Chat => &mut self.chats[usize::from(request.usage)],
            Endpoint::Embeddings => &mut self.embeddings,
            Endpoint::Models => return Rc::new(whole("200 OK", &models())),
            Endpoint::Other => return Rc::new(not_found("no such endpoint")),
        };
        if let Some(answer) = kept.get(&request.model) {
            return Rc::clone(answer);
        }
        let answer = Rc::new(prepared(request));
        if kept.len() < MAX_KEPT {
            kept.insert(request.model.clone(), Rc::clone(&answer));
        }
        answer
    }
}

fn prepared(request: &Request) -> Answer {
    let model = String::from_utf8_lossy(&request.model);
    match (request.endpoint, Kind::of(&model)) {
        (Endpoint::Chat, Some(Kind::Short)) => whole("200 OK", &completion(&model)),
        (Endpoint::Chat, Some(Kind::Stream(count))) => stream(&model, count, request.usage),
        (Endpoint::Chat, Some(Kind::Paced { rate, count })) => {
            paced(&model, rate, count, request.usage)
        }
        (Endpoint::Embeddings, Some(Kind::Embed { vectors, numbers })) => {
            whole("200 OK", &embeddings(&model, vectors, numbers))
        }
        _ => not_found("no such model here"),
    }
}

fn not_found(message: &str) -> Answer {
    let body = format!(
        "{{\"error\":{{\"message\":\"{message}\",\"type\":\"invalid_request_error\",\"param\":null,\
         \"code\":\"not_found\"}}}}"
    );
    whole("404 Not Found", &body)
}

fn whole(status: &str, body: &str) -> Answer {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    Answer::Whole(text.into_bytes().into())
}

fn models() -> String {
    let model = |id: &&str| {
        format!(
            "{{\"id\":\"{id}\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"bench\"}}"
        )
    };
    let models: Vec<String> = LISTED.iter().map(model).collect();
    format!("{{\"object\":\"list\",\"data\":[{}]}}", models.join(","))
}

fn completion(model: &str) -> String {
    format!(
        "{{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\
         \"model\":\"{model}\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
         \"content\":\"{SHORT_TEXT}\",\"refusal\":null}},\"logprobs\":null,\
         \"finish_reason\":\"stop\"}}],\"usage\":{}}}",
        usage(12)
    )
}

fn usage(tokens: u64) -> String {
    let total = tokens + 9;
    format!("{{\"prompt_tokens\":9,\"completion_tokens\":{tokens},\"total_tokens\":{total}}}")
}

/// One chunk of a stream as an event, its choice as given.
fn event(model: &str, delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-bench\",{COMMON},\"model\":\"{model}\",\"choices\":[{{\"index\":0,\
         \"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn content(model: &str, text: &str) -> String {
    event(model, &format!("{{\"content\":\"{text}\"}}"), "null")
}

/// Adds an event as a frame of its own.
fn frame(out: &mut String, event: &str) {
    let _ = write!(out, "{:x}\r\n{event}\r\n", event.len());
}

fn head(model: &str) -> String {
    let mut out = STREAM_HEAD.to_owned();
    frame(&mut out, &event(model, "{\"role\":\"assistant\",\"content\":\"\"}", "null"));
    out
}

fn tail(model: &str, count: u64, with_usage: bool) -> String {
    let mut out = String::new();
    frame(&mut out, &event(model, "{}", "\"stop\""));
    if with_usage {
        let usage = usage(count);
        let text = format!(
            "data: {{\"id\":\"chatcmpl-bench\",{COMMON},\"model\":\"{model}\",\"choices\":[],\
             \"usage\":{usage}}}\n\n"
        );
        frame(&mut out, &text);
    }
    frame(&mut out, "data: [DONE]\n\n");
    out + "0\r\n\r\n"
}

fn stream(model: &str, count: u64, usage: bool) -> Answer {
    let mut out = head(model);
    (0..count).for_each(|index| frame(&mut out, &content(model, &format!(" w{index}"))));
    out += &tail(model, count, usage);
    Answer::Whole(out.into_bytes().into())
}

fn paced(model: &str, rate: u64, count: u64, usage: bool) -> Answer {
    let text = content(model, "@@ ");
    let (before, after) = text.split_once("@@").unwrap_or((&text, ""));
    Answer::Paced(Paced {
        head: head(model).into_bytes().into(),
        tail: tail(model, count, usage).into_bytes().into(),
        rate: rate as f64,
        count,
        before: format!("{before}@"),
        after: after.to_owned(),
    })
}

fn embeddings(model: &str, vectors: u64, numbers: u64) -> String {
    let mut out = String::from("{\"object\":\"list\",\"data\":[");
    let mut state = 1u64;
    for index in 0..vectors {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":[");
        vector(&mut out, &mut state, numbers);
        out += "]}";
    }
    let tokens = vectors * 8;
    let _ = write!(
        out,
        "],\"model\":\"{model}\",\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}"
    );
    out
}

/// A vector as OpenAI sends them: its length is 1 as far as its digits go. Its numbers have 9 to 11
/// digits that count, some an exponent.
fn vector(out: &mut String, state: &mut u64, numbers: u64) {
    let draw = |_| {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *state >> 33
    };
    let bits: Vec<u64> = (0..numbers).map(draw).collect();
    // What has an exponent stays as small as it is, and the others make up the length; the first number
    // has none.
    let is_small = |place: usize, bits: u64| place > 0 && bits.is_multiple_of(64);
    let value = |bits: u64| (bits as f64 + 0.5) / f64::from(1u32 << 30) - 1.0;
    let (mut large, mut small) = (0.0, 0.0);
    for (place, &bits) in bits.iter().enumerate() {
        let of_its_kind = if is_small(place, bits) { &mut small } else { &mut large };
        *of_its_kind += value(bits).powi(2);
    }
    let length = (large / (1.0 - small * 9e-5 * 9e-5)).sqrt();
    for (place, &bits) in bits.iter().enumerate() {
        out.push_str(if place == 0 { "" } else { "," });
        let unit = value(bits) / length;
        let _ = match bits % 64 {
            _ if is_small(place, bits) => write!(out, "{:.8}e-05", value(bits) * 9.0),
            0..=20 => write!(out, "{unit:.10}"),
            21..=42 => write!(out, "{unit:.11}"),
            _ => write!(out, "{unit:.12}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::http::{Parser, Side, Sink};

    #[derive(Default)]
    struct Body(Vec<u8>, usize);

    impl Sink for Body {
        fn head(&mut self, head: &[u8]) {
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(head));
        }
        fn body(&mut self, piece: &[u8]) {
            self.0.extend_from_slice(piece);
            self.1 += 1;
        }
    }

    fn body(bytes: &[u8]) -> Body {
        let mut body = Body::default();
        let used = Parser::new(Side::Answer).push(bytes, &mut body);
        assert_eq!(used, Ok(Some(bytes.len())));
        body
    }

    fn answer(endpoint: Endpoint, model: &str, usage: bool) -> Rc<Answer> {
        let model = model.as_bytes().to_vec();
        Answers::default().of(&Request { endpoint, model, usage, ..Request::default() })
    }

    fn bytes(endpoint: Endpoint, model: &str, usage: bool) -> Rc<[u8]> {
        match &*answer(endpoint, model, usage) {
            Answer::Whole(bytes) => Rc::clone(bytes),
            Answer::Paced(_) => panic!("{model} is paced"),
        }
    }

    fn json(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    fn events(body: &Body) -> Vec<Value> {
        let text = std::str::from_utf8(&body.0).expect("UTF-8");
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!((events.len(), events.last()), (body.1, Some(&"data: [DONE]")));
        let data = events[..events.len() - 1].iter();
        data.map(|it| json(it.strip_prefix("data: ").expect("data").as_bytes())).collect()
    }

    #[test]
    fn a_stream_has_its_tokens_in_order_and_its_usage_when_asked() {
        for usage in [false, true] {
            let events = events(&body(&bytes(Endpoint::Chat, "stream-20", usage)));
            assert_eq!(events.len(), 22 + usize::from(usage));
            assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
            for index in 0..20 {
                let choice = &events[index + 1]["choices"][0];
                assert_eq!(choice["delta"]["content"], format!(" w{index}"));
                assert_eq!(choice["finish_reason"], Value::Null);
            }
            assert_eq!(events[21]["choices"][0]["finish_reason"], "stop");
            assert!(!usage || events[22]["usage"]["completion_tokens"] == 20);
        }
    }

    #[test]
    fn a_paced_stream_is_whole_and_carries_its_times() {
        let answer = answer(Endpoint::Chat, "paced-50-3", true);
        let Answer::Paced(paced) = &*answer else { panic!("not paced") };
        let (mut all, mut frame) = (paced.head.to_vec(), Vec::new());
        for now in [0, 7, 123_456_789_012_345] {
            paced.token(now, &mut frame);
            all.extend_from_slice(&frame);
        }
        all.extend_from_slice(&paced.tail);
        let events = events(&body(&all));
        let texts: Vec<&Value> =
            events[1..4].iter().map(|it| &it["choices"][0]["delta"]["content"]).collect();
        assert_eq!(texts, ["@0 ", "@7 ", "@123456789012345 "]);
    }

    #[test]
    fn vectors_are_as_many_and_as_long_as_asked() {
        let bytes = bytes(Endpoint::Embeddings, "embed-5x300", false);
        let json = json(&body(&bytes).0);
        let data = json["data"].as_array().expect("data");
        assert_eq!(data.len(), 5);
        for (index, item) in data.iter().enumerate() {
            assert_eq!(item["index"], index);
            let numbers = item["embedding"].as_array().expect("numbers");
            assert_eq!(numbers.len(), 300);
            assert!(numbers.iter().all(|it| it.as_f64().is_some_and(|it| it.abs() < 0.2)));
        }
    }

    #[test]
    fn vectors_are_of_unit_length() {
        for model in ["embed-7x1536", "embed-20x1", "embed-20x2"] {
            let bytes = bytes(Endpoint::Embeddings, model, false);
            let json = json(&body(&bytes).0);
            for item in json["data"].as_array().expect("data") {
                let numbers = item["embedding"].as_array().expect("numbers");
                let squares = numbers.iter().map(|it| it.as_f64().expect("a number").powi(2));
                let sum: f64 = squares.sum();
                assert!((sum - 1.0).abs() < 1e-8, "{model}: {sum}");
            }
        }
    }

    #[test]
    fn whole_answers_are_json() {
        let short = json(&body(&bytes(Endpoint::Chat, "short", false)).0);
        assert_eq!(short["choices"][0]["message"]["content"], SHORT_TEXT);
        let models = json(&body(&bytes(Endpoint::Models, "", false)).0);
        assert_eq!(models["data"].as_array().map(Vec::len), Some(LISTED.len()));
        for (endpoint, model) in
            [(Endpoint::Other, "short"), (Endpoint::Chat, "embed-1x1"), (Endpoint::Chat, "")]
        {
            assert!(bytes(endpoint, model, false).starts_with(b"HTTP/1.1 404"));
        }
    }
}
