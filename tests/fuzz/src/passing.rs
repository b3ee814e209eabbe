//! Bodies that are passed on: nothing changes but the name of the model.

use std::borrow::Cow;

use ollama_openai_proxy::api::ollama::decode;
use ollama_openai_proxy::api::openai::multipart;
use ollama_openai_proxy::api::openai::raw_object;
use ollama_openai_proxy::api::openai::raw_object::RawObject;
use ollama_openai_proxy::error::Error;
use ollama_openai_proxy::handlers;
use ollama_openai_proxy::translate::pass_through::{Endpoint, PassBody};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::check_refusal;

/// Words of multipart forms.
pub const FORM_WORDS: &[&str] = &[
    "--b\r\n",
    "\r\n\r\n",
    "\r\n",
    "--b--\r\n",
    "Content-Disposition: form-data; ",
    "name=\"model\"",
    "name=model",
    "name=\"file\"; filename=\"a.wav\"",
    "whisper-1",
    ";",
    ":",
];

/// What an upstream may call the model.
const ID: &str = "up/stream \"id\"\\\u{e9}";

/// The four endpoints of OpenAI that are passed on.
pub fn pass(data: &[u8]) {
    const ENDPOINTS: [Endpoint; 4] =
        [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings, Endpoint::Responses];
    let endpoint = ENDPOINTS[data.len() % 4];
    check_beginning(data);
    let text = match decode::decode_body_verbatim(data.to_vec()) {
        Ok(text) => text,
        Err(error) => return check_refusal(&error),
    };
    let mut body = match PassBody::parse(&text, endpoint) {
        Ok(body) => body,
        Err(error) => return check_refusal(&error),
    };
    let unchanged = body.to_bytes();
    assert!(matches!(unchanged, Cow::Borrowed(_)), "what is untouched goes on as it is");
    assert_eq!(unchanged, text.as_bytes(), "what is untouched goes on as it is");
    if let Some(sent) = body.requested_model().map(str::to_owned) {
        body.set_model(&sent);
        check_members(&text, &body.to_bytes(), &sent);
    }
    body.set_model(ID);
    assert_eq!(body.model(), ID);
    let bytes = body.to_bytes();
    check_members(&text, &bytes, ID);
    let bytes = String::from_utf8(bytes.into_owned()).expect("text");
    let again = PassBody::parse(&bytes, endpoint).expect("what is sent can be read");
    assert_eq!(again.requested_model(), Some(ID));
}

/// Every member but the model is as it was, in its place.
fn check_members(before: &str, after: &[u8], id: &str) {
    let after = std::str::from_utf8(after).expect("text");
    let read = |text: &str| -> (Vec<(String, String)>, Vec<String>) {
        let object: RawObject<'_> = decode::parse(text, "Request").expect("an object");
        let own = object.members().map(|(key, value)| (key.to_owned(), value.to_string()));
        let (models, others) = own.partition(|(key, _)| key.eq_ignore_ascii_case("model"));
        let models: Vec<(String, String)> = models;
        (others, models.into_iter().map(|(_, value)| value).collect())
    };
    let ((before, _), (after, models)) = (read(before), read(after));
    assert_eq!(before, after);
    let last = models.iter().rfind(|value| *value != "null").expect("a model");
    assert_eq!(serde_json::from_str::<String>(last).expect("a text"), id);
}

/// The model that is found at the beginning of a large body stands there.
fn check_beginning(data: &[u8]) {
    let Some((name, place)) = raw_object::find_model(data) else { return };
    let value = std::str::from_utf8(&data[place.clone()]).expect("text");
    assert_eq!(serde_json::from_str::<String>(value).expect("a text"), name);
    let spliced =
        [&data[..place.start], raw_object::quote_json(ID).as_bytes(), &data[place.end..]].concat();
    let (found, _) = raw_object::find_model(&spliced).expect("it is found again");
    assert_eq!(found, ID);
}

/// The model in a multipart form.
pub fn form(data: &[u8]) {
    let Some((name, place)) = multipart::find_model(data) else { return };
    assert_eq!(&data[place.clone()], name.as_bytes());
    let spliced = [&data[..place.start], b"other", &data[place.end..]].concat();
    let (found, again) = multipart::find_model(&spliced).expect("it is found again");
    assert_eq!((found.as_str(), again.start), ("other", place.start));
}

/// Compressed bodies: unfolded in bounds, or refused.
pub fn unpack(data: &[u8]) {
    match handlers::decompress_zstd(data) {
        Ok(body) => assert!(body.len() <= 20 * 1024 * 1024),
        Err(error) => {
            check_refusal(&error);
            assert!(matches!(error, Error::InvalidRequest(_) | Error::BodyTooLarge(_)));
        }
    }
    let packed = compress_to_vec(data, CompressionLevel::Fastest);
    assert_eq!(handlers::decompress_zstd(&packed).expect("what was packed here"), data);
}
