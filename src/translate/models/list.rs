//! Reads an upstream's model list (openai-wire.md 2.1 to 2.3).
//!
//! Lists come as an object with `data` or `models`, or as a bare array; entries say much, little or
//! nothing, and what they say of numbers is believed only where it can be true. Never asks anybody.

use serde_json::Value;

use super::{Abilities, Model};
use crate::error::{Error, Result};
use crate::upstream_error;

/// Servers that stamp `created` with the time of the request (openai-wire.md 2.1).
const UNSTABLE_CREATED: &[&str] = &["llamacpp", "vllm", "sglang"];

/// Reads a list in any of its shapes. Entries without an id are skipped.
///
/// # Errors
/// [`Error::UpstreamProtocol`] when it is no list, [`Error::UpstreamInBand`] when it is an error.
pub fn read_list(body: &str) -> Result<Vec<Model>> {
    let value: Value =
        serde_json::from_str(body).map_err(|_| Error::protocol("a model list that is no JSON"))?;
    let entries = match &value {
        Value::Array(entries) => entries,
        Value::Object(members) => ["data", "models"]
            .iter()
            .find_map(|name| members.get(*name)?.as_array())
            .ok_or_else(|| match upstream_error::error_in(body) {
                Some(error) => error,
                None => Error::protocol("an object without a model list"),
            })?,
        _ => return Err(Error::protocol("a model list that is no list")),
    };
    let mimicked = value["models"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(entries.iter().filter_map(|entry| read_model(entry, mimicked)).collect())
}

fn read_model(entry: &Value, mimicked: &[Value]) -> Option<Model> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    let id = text("id").or_else(|| text("key")).or_else(|| text("name"))?;
    let owner = text("owned_by").unwrap_or_default();
    let created = entry["created"].as_u64().filter(|created| *created > 0);
    let meta = &entry["meta"];
    let mimicked = mimicked.iter().find(|other| other["name"] == id || other["model"] == id);
    Some(Model {
        id: id.to_owned(),
        owner: owner.to_owned(),
        created: created.filter(|_| !UNSTABLE_CREATED.contains(&owner)),
        context_length: context_length(entry),
        embedding_length: meta["n_embd"].as_u64().filter(|length| *length > 0),
        size: meta["size"].as_u64().or_else(|| entry["size_bytes"].as_u64()),
        parameters: meta["n_params"].as_u64().filter(|count| *count > 0),
        quantization: meta["ftype"]
            .as_str()
            .or_else(|| entry["quantization"].as_str())
            .map(str::to_owned),
        abilities: Abilities::read(id, entry, mimicked),
    })
}

/// The window, by the names that servers give it (openai-wire.md 2.2).
fn context_length(entry: &Value) -> Option<u64> {
    const PATHS: &[&[&str]] = &[
        &["context_length"],
        &["max_model_len"],
        &["meta", "n_ctx"],
        &["meta", "n_ctx_train"],
        &["context_window"],
        &["max_context_length"],
        &["max_input_tokens"],
        &["top_provider", "context_length"],
    ];
    let at = |path: &&[&str]| path.iter().try_fold(entry, |value, name| value.get(name))?.as_u64();
    PATHS.iter().find_map(at).filter(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::SETTING;
    use super::*;

    fn ids(body: &str) -> Vec<String> {
        read_list(body).expect("a list").into_iter().map(|model| model.id).collect()
    }

    #[test]
    fn lists_are_read_in_every_shape() {
        assert_eq!(ids(r#"{"object":"list","data":[{"id":"a"},{"id":"b/c:d"}]}"#), ["a", "b/c:d"]);
        assert_eq!(ids(r#"[{"id":"a"}]"#), ["a"]);
        assert_eq!(ids(r#"{"models":[{"key":"a"},{"name":"b"}]}"#), ["a", "b"]);
        assert_eq!(ids(r#"{"data":[{"id":"a"}],"models":[{"name":"x"}]}"#), ["a"]);
        assert_eq!(ids(r#"{"data":[{"id":5},{},{"id":""},null,{"id":"a","meta":null}]}"#), ["a"]);
        assert!(ids("[]").is_empty());
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let check = |body: &str, status: u16, message: &str| {
            let error = read_list(body).expect_err("no list");
            assert_eq!(
                (error.status(), error.message().as_str()),
                (Some(status), message),
                "{body}"
            );
        };
        let protocol = "invalid response from the upstream: ";
        check("<html>", 502, &format!("{protocol}a model list that is no JSON"));
        check("7", 502, &format!("{protocol}a model list that is no list"));
        check("{}", 502, &format!("{protocol}an object without a model list"));
        check(
            r#"{"error":"Unexpected endpoint or method. (GET /x)"}"#,
            502,
            "Unexpected endpoint or method. (GET /x)",
        );
    }

    #[test]
    fn what_a_list_says_is_kept() {
        let body = r#"{"data":[{"id":"smollm2:135m","owned_by":"llamacpp","created":5,"meta":
            {"n_ctx":4096,"n_ctx_train":8192,"n_params":134515008,"size":144811008,"n_embd":576}}]}"#;
        let model = read_list(body).expect("a list").remove(0);
        assert_eq!(model.context_length, Some(4096));
        assert_eq!(model.created, None, "stamped with the time of the request");
        let tag = model.tag(&SETTING);
        assert_eq!((tag.name.as_str(), tag.size), ("smollm2:135m", 144_811_008));
        assert_eq!(tag.details.details.parameter_size, "134.52M");
        assert_eq!(tag.details.embedding_length, Some(576));
    }
}
