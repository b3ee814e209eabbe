//! The model list of Anthropic's API (Anthropic API reference, models).
//!
//! | member | value |
//! | --- | --- |
//! | `id` | the upstream's id, or the name of a virtual model |
//! | `display_name` | `display_name` or `name` of the upstream's entry, or else the id |
//! | `created_at` | in seconds, or 1970 if it is not known |
//! | `max_input_tokens` | the context length, if it is known |
//!
//! A page has `limit` models, 20 by default, behind `after_id` or before `before_id`. Values that the API
//! does not allow count as the nearest ones that it does, and behind an unknown id there is nothing: a
//! client that asks for the next page until there is none comes to an end.

use std::time::{Duration, SystemTime};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::model::Model;
use crate::api::ollama::decode::non_empty;
use crate::observe::timestamp;

/// How many models a page has, unless the client says.
const DEFAULT_LIMIT: usize = 20;

/// The most models of a page.
const MAX_LIMIT: usize = 1000;

/// A model of the upstream; `entry` is what the upstream's list says of it.
pub fn to_object(model: &Model, entry: &str) -> Value {
    let entry: Value = serde_json::from_str(entry).unwrap_or_default();
    let named = |member: &str| non_empty(entry[member].as_str());
    let name = named("display_name").or_else(|| named("name")).unwrap_or(&model.id);
    let mut object = to_named_object(&model.id, name, model.created.unwrap_or(0));
    if let Some(length) = model.context_length {
        object["max_input_tokens"] = length.into();
    }
    object
}

/// A model of which only this is known; `created` is in seconds since 1970.
pub fn to_named_object(id: &str, name: &str, created: u64) -> Value {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(created));
    let created_at = timestamp::to_rfc3339(time.unwrap_or(SystemTime::UNIX_EPOCH));
    json!({"type": "model", "id": id, "display_name": name, "created_at": created_at})
}

/// The page that the query of a request asks for; `models` are ids and objects, `target` is the path with
/// the query.
pub fn to_page(mut models: Vec<(String, String)>, target: &str) -> String {
    let limit = parameter(target, "limit").and_then(|limit| limit.trim().parse::<usize>().ok());
    let limit = limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let (after, before) = (parameter(target, "after_id"), parameter(target, "before_id"));
    let place = |id: &String| models.iter().position(|(known, _)| known == id);
    let end = models.len();
    if let Some(id) = &after {
        models.drain(..place(id).map_or(end, |place| place + 1));
    } else if let Some(id) = &before {
        models.truncate(place(id).unwrap_or(0));
    }
    let has_more = models.len() > limit;
    if after.is_none() && before.is_some() {
        models.drain(..models.len().saturating_sub(limit));
    } else {
        models.truncate(limit);
    }
    let id = |model: Option<&(String, String)>| json!(model.map(|(id, _)| id));
    let (first, last) = (id(models.first()), id(models.last()));
    let objects: Vec<String> = models.into_iter().map(|(_, object)| object).collect();
    let data = objects.join(",");
    format!(r#"{{"data":[{data}],"has_more":{has_more},"first_id":{first},"last_id":{last}}}"#)
}

/// A parameter of the query, decoded; `None` if it is empty.
pub fn parameter(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let parameters = query.split('#').next()?.split('&').filter_map(|it| it.split_once('='));
    let value = parameters.into_iter().find_map(|(key, value)| (key == name).then_some(value))?;
    let value = value.replace('+', " ");
    non_empty(Some(&percent_decode_str(&value).decode_utf8_lossy())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(count: usize, query: &str) -> Value {
        let models = (1..=count).map(|it| (format!("m/{it}"), format!("\"m/{it}\""))).collect();
        serde_json::from_str(&to_page(models, &format!("/v1/models{query}"))).expect("JSON")
    }

    #[test]
    fn pages_follow_each_other_both_ways() {
        let check = |query: &str, ids: &[&str], has_more: bool| {
            let (first, last) = (ids.first(), ids.last());
            let expected =
                json!({"data": ids, "has_more": has_more, "first_id": first, "last_id": last});
            assert_eq!(page(5, query), expected, "{query}");
        };
        check("", &["m/1", "m/2", "m/3", "m/4", "m/5"], false);
        check("?limit=2", &["m/1", "m/2"], true);
        check("?limit=2&after_id=m/2", &["m/3", "m/4"], true);
        check("?after_id=m%2F4&limit=2", &["m/5"], false);
        check("?limit=2&after_id=m/5", &[], false);
        check("?limit=2&before_id=m/5", &["m/3", "m/4"], true);
        check("?limit=2&before_id=m/3", &["m/1", "m/2"], false);
        check("?after_id=nobody", &[], false);
        check("?before_id=nobody", &[], false);
        check("?limit=0&x", &["m/1"], true);
        check("?limit=many&after_id=&before_id=", &["m/1", "m/2", "m/3", "m/4", "m/5"], false);
    }

    #[test]
    fn a_page_has_20_models_and_at_most_1_000() {
        let count = |query: &str| {
            let page = page(1200, query);
            (page["data"].as_array().expect("a list").len(), page["has_more"].clone())
        };
        assert_eq!(count(""), (20, true.into()));
        assert_eq!(count("?limit=1000"), (1000, true.into()));
        assert_eq!(count("?limit=5000"), (1000, true.into()));
    }
}
