//! Parses one entry of a model list, in any of the forms that servers send.
//!
//! Also finds the entries in a list. Pure, and knows nothing of the list around an entry except
//! llama.cpp's second list in Ollama's format. Invariant: a number that cannot be true, such as a
//! context length of 0, counts as unknown.

use std::sync::Arc;

use serde_json::Value;

use super::model::{Capabilities, Model, ThinkingModes};

/// Owners whose servers set `created` to the time of the request.
const UNSTABLE_CREATED_OWNERS: &[&str] = &["llamacpp", "vllm", "sglang"];

/// The longest id, in bytes: a path of a file is shorter. No longer one can be asked for.
const MAX_ID_BYTES: usize = 1024;

/// Entries of llama.cpp's second list that are looked through for each model; it has few.
const MAX_OLLAMA_ENTRIES: usize = 1000;

/// Members of a list that hold its entries, in order of precedence.
pub(super) const LIST_MEMBERS: [&str; 2] = ["data", "models"];

/// The entries of a list: the list itself if it is an array, otherwise its `data` or `models`.
pub(super) fn entries(list: &Value) -> Option<&[Value]> {
    let members = LIST_MEMBERS.iter().find_map(|name| list[name].as_array());
    list.as_array().or(members).map(Vec::as_slice)
}

/// Parses an entry; `None` if it has no id. `ollama_entries` is the list in Ollama's format that
/// llama.cpp adds to its own.
pub(super) fn parse_model(entry: &Value, ollama_entries: &[Value]) -> Option<Model> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    let id = text("id").or_else(|| text("key")).or_else(|| text("name"))?;
    if id.len() > MAX_ID_BYTES {
        return None;
    }
    let owner = text("owned_by").unwrap_or_default();
    let created = entry["created"].as_u64().filter(|created| *created > 0);
    let meta = &entry["meta"];
    let ollama_entries = ollama_entries.iter().take(MAX_OLLAMA_ENTRIES);
    let ollama_entry =
        ollama_entries.into_iter().find(|other| other["name"] == id || other["model"] == id);
    let quantization = meta["ftype"].as_str().or_else(|| text("quantization"));
    Some(Model {
        id: id.to_owned(),
        aliases: strings(&entry["aliases"]),
        owner: owner.to_owned(),
        created: created.filter(|_| !UNSTABLE_CREATED_OWNERS.contains(&owner)),
        context_length: context_length(entry),
        embedding_length: meta["n_embd"].as_u64().filter(|length| *length > 0),
        size: meta["size"].as_u64().or_else(|| entry["size_bytes"].as_u64()),
        parameter_count: meta["n_params"].as_u64().filter(|count| *count > 0),
        parameter_size: text("params_string").map(str::to_owned),
        quantization: quantization
            .or_else(|| entry["quantization"]["name"].as_str())
            .map(str::to_owned),
        family: family(entry),
        format: text("compatibility_type").or_else(|| text("format")).map(str::to_owned),
        capabilities: Capabilities::from_entry(id, entry, ollama_entry),
        assumed: Capabilities::default(),
        thinking: ThinkingModes::from_entry(entry).map(Arc::new),
        own_tag: None,
    })
}

fn strings(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.filter(|text| text.len() <= MAX_ID_BYTES).map(str::to_owned).collect()
}

/// The model family, as LM Studio and OpenRouter name it.
fn family(entry: &Value) -> Option<String> {
    /// OpenRouter's tokenizers that do not name a family.
    const NON_FAMILIES: &[&str] = &["", "other", "router"];
    let names = [&entry["arch"], &entry["architecture"], &entry["architecture"]["tokenizer"]];
    let name = names.iter().find_map(|name| name.as_str())?.to_ascii_lowercase();
    (!NON_FAMILIES.contains(&name.as_str())).then_some(name)
}

/// The context length, under the names that servers use.
fn context_length(entry: &Value) -> Option<u64> {
    const PATHS: &[&[&str]] = &[
        // The configured length of a loaded model counts before the model's maximum.
        &["loaded_context_length"],
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
