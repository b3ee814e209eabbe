//! The bytes of a request, prepared once for each conversation; else all requests of a run are the same.
//! Pure.

use super::options::Options;
use crate::tokens::Api;

const PROMPT: &str = "Why is the sky blue?";

/// The whole request of each conversation.
pub fn all(options: &Options) -> Vec<Vec<u8>> {
    (0..options.conversations).map(|it| bytes(options, it)).collect()
}

/// The whole request, head and body.
fn bytes(options: &Options, conversation: u32) -> Vec<u8> {
    let body = match options.embed {
        Some(inputs) => embed_body(options, inputs),
        None => chat_body(options, conversation),
    };
    let path = match (options.api, options.embed) {
        (Api::Ollama, None) => "/api/chat",
        (Api::Ollama, Some(_)) => "/api/embed",
        (Api::OpenAi, None) => "/v1/chat/completions",
        (Api::OpenAi, Some(_)) => "/v1/embeddings",
    };
    let key = options.key.as_ref().map(|key| format!("Authorization: Bearer {key}\r\n"));
    let head = format!(
        "POST {}{path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        options.prefix,
        options.host,
        key.unwrap_or_default(),
        body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn embed_body(options: &Options, inputs: u32) -> String {
    let inputs: Vec<String> = (0..inputs).map(|it| format!("\"input number {it}\"")).collect();
    format!("{{\"model\":{},\"input\":[{}]}}", model(options), inputs.join(","))
}

fn chat_body(options: &Options, conversation: u32) -> String {
    let image = options.image_bytes.map(image);
    let prompt = match conversation {
        0 => PROMPT.to_owned(),
        number => format!("{PROMPT} ({number})"),
    };
    let message = match (options.api, image) {
        (_, None) => format!("\"content\":\"{prompt}\""),
        (Api::Ollama, Some(image)) => format!("\"content\":\"{prompt}\",\"images\":[\"{image}\"]"),
        (Api::OpenAi, Some(image)) => format!(
            "\"content\":[{{\"type\":\"text\",\"text\":\"{prompt}\"}},{{\"type\":\"image_url\",\
             \"image_url\":{{\"url\":\"data:image/png;base64,{image}\"}}}}]"
        ),
    };
    let stream = options.stream;
    let usage = match options.api {
        Api::OpenAi if stream => ",\"stream_options\":{\"include_usage\":true}",
        _ => "",
    };
    format!(
        "{{\"model\":{},\"messages\":[{{\"role\":\"user\",{message}}}],\"stream\":{stream}{usage}}}",
        model(options)
    )
}

fn model(options: &Options) -> String {
    serde_json::Value::from(options.model.as_str()).to_string()
}

/// So many bytes that begin as a PNG does, as base64.
fn image(count: usize) -> String {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let byte = |at: usize| match SIGNATURE.get(at) {
        _ if at >= count => 0,
        Some(&byte) => u32::from(byte),
        None => (at as u32).wrapping_mul(2_654_435_761) >> 24,
    };
    let mut text = String::with_capacity(count.div_ceil(3) * 4);
    for at in (0..count).step_by(3) {
        let bits = byte(at) << 16 | byte(at + 1) << 8 | byte(at + 2);
        let kept = (count - at).min(3) + 1;
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place < kept { letter as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::{Parser, Side, Sink};

    #[derive(Default)]
    struct Body(String, Vec<u8>);

    impl Sink for Body {
        fn head(&mut self, head: &[u8]) {
            self.0 = String::from_utf8_lossy(head).into_owned();
        }
        fn body(&mut self, piece: &[u8]) {
            self.1.extend_from_slice(piece);
        }
    }

    fn taken(bytes: &[u8]) -> Body {
        let mut body = Body::default();
        let used = Parser::new(Side::Request).push(bytes, &mut body);
        assert_eq!(used, Ok(Some(bytes.len())));
        body
    }

    fn read(options: &Options) -> (String, Value) {
        let body = taken(&bytes(options, 0));
        let path = body.0.split(' ').nth(1).unwrap_or("").to_owned();
        (path, serde_json::from_slice(&body.1).expect("JSON"))
    }

    #[test]
    fn requests_are_what_each_api_takes() {
        let mut options = Options { model: "short".into(), ..Options::default() };
        let (path, body) = read(&options);
        assert_eq!((path.as_str(), &body["stream"]), ("/api/chat", &Value::from(false)));
        options.stream = true;
        options.image_bytes = Some(5);
        assert_eq!(read(&options).1["messages"][0]["images"][0], "iVBORw0=");
        options.api = Api::OpenAi;
        let (path, body) = read(&options);
        assert_eq!(path, "/v1/chat/completions");
        assert_eq!(body["stream_options"]["include_usage"], true);
        let url = &body["messages"][0]["content"][1]["image_url"]["url"];
        assert_eq!(url, "data:image/png;base64,iVBORw0=");
        options.embed = Some(3);
        let (path, body) = read(&options);
        assert_eq!(
            (path.as_str(), body["input"].as_array().map(Vec::len)),
            ("/v1/embeddings", Some(3))
        );
        options.api = Api::Ollama;
        assert_eq!(read(&options).0, "/api/embed");
    }

    #[test]
    fn conversations_differ_and_a_key_is_sent_where_one_is_given() {
        let options = Options { conversations: 3, ..Options::default() };
        let bodies: Vec<_> = all(&options).iter().map(|it| taken(it)).collect();
        let prompts: BTreeSet<String> = bodies
            .iter()
            .map(|it| serde_json::from_slice::<Value>(&it.1).expect("JSON"))
            .map(|it| it["messages"][0]["content"].to_string())
            .collect();
        assert_eq!(prompts.len(), 3);
        assert!(bodies.iter().all(|it| !it.0.contains("Authorization")));
        let options = Options { key: Some("k-1".into()), ..Options::default() };
        assert!(taken(&all(&options)[0]).0.contains("\r\nAuthorization: Bearer k-1\r\n"));
    }

    #[test]
    fn base64_has_its_padding() {
        let lengths: Vec<usize> = (0..7).map(|it| image(it).len()).collect();
        assert_eq!(lengths, [0, 4, 4, 4, 8, 8, 8]);
        assert_eq!((image(1).as_str(), image(3).as_str()), ("iQ==", "iVBO"));
    }
}
