//! What `--check` found, for scripts: one object, whose names stay.

use serde_json::Value;

use super::{Answer, Report};
use crate::http::client_keys::{ClientKeys, NamedKey};
use crate::models::configured::ConfiguredModel;
use crate::observe::redact::Redactor;
use crate::upstream::base_url::BaseUrl;

/// The object on one line.
pub(super) fn text(report: &Report<'_>) -> String {
    let config = report.config;
    let redactor = config.redactor();
    let upstreams = report.answers.iter().map(describe_upstream).collect();
    let models = config.models.iter().map(|model| describe_model(model, report)).collect();
    let warnings = config.warnings.iter().map(|it| string(it)).collect();
    let mut value = object(vec![
        ("ok", Value::Bool(report.is_ok())),
        ("version", string(env!("CARGO_PKG_VERSION"))),
        ("listen", describe_listen(report)),
        ("state", describe_state(report)),
        ("upstreams", Value::Array(upstreams)),
        ("models", Value::Array(models)),
        ("keys", describe_keys(&config.proxy_api_keys)),
        ("warnings", Value::Array(warnings)),
    ]);
    mask(&mut value, &redactor);
    let settings = config.settings_in_force(&[]).into_iter();
    value["settings"] = object(settings.map(|(name, value)| (name, string(&value))).collect());
    value.to_string()
}

/// Masks the keys in all texts, before quotes and backslashes in them are escaped.
fn mask(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => *text = redactor.redact(text).into_owned(),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, redactor)),
        Value::Object(members) => members.values_mut().for_each(|member| mask(member, redactor)),
        _ => {}
    }
}

fn describe_listen(report: &Report<'_>) -> Value {
    let (host, port) = report.config.listen_addr();
    object(vec![
        ("host", string(&host)),
        ("port", Value::from(u64::from(port))),
        ("in_use_by_proxy", Value::Bool(report.listen == Ok(true))),
        ("status", status(report.listen.is_ok())),
        ("error", optional(report.listen.as_ref().err().map(String::as_str))),
    ])
}

fn describe_state(report: &Report<'_>) -> Value {
    let file = report.config.state_file.as_ref().map(|path| path.to_string_lossy());
    object(vec![
        ("file", optional(file.as_deref())),
        ("models", count(report.state.as_ref().ok().copied())),
        ("status", status(report.state.is_ok())),
        ("error", optional(report.state.as_ref().err().map(String::as_str))),
    ])
}

fn describe_upstream(answer: &Answer<'_>) -> Value {
    let Answer { server, result, ids, milliseconds } = answer;
    let failure = result.as_ref().err();
    let error = failure.map(|it| it.text.strip_prefix("error: ").unwrap_or(&it.text));
    let proxy = server.proxy.as_ref().map(ToString::to_string);
    let id_list = ids.as_ref().map(|ids| ids.iter().map(|id| string(id)).collect());
    object(vec![
        ("name", string(&server.name)),
        ("base_url", string(&without_user(&server.base_url))),
        ("proxy", optional(proxy.as_deref())),
        ("tls_verify", Value::Bool(server.tls.verify)),
        ("reachable", Value::Bool(failure.is_none_or(|it| it.is_reachable))),
        ("status", status(result.is_ok())),
        ("http_status", count(failure.and_then(|it| it.status).map(usize::from))),
        ("family", optional(result.as_ref().ok().copied().flatten())),
        ("models", count(ids.as_ref().map(Vec::len))),
        ("model_ids", id_list.map_or(Value::Null, Value::Array)),
        ("milliseconds", count(usize::try_from(*milliseconds).ok())),
        ("error", optional(error)),
    ])
}

/// The URL without user name and password.
fn without_user(url: &BaseUrl) -> String {
    url.to_string().replacen("://***@", "://", 1)
}

fn describe_model(model: &ConfiguredModel, report: &Report<'_>) -> Value {
    let targets = model.targets.iter().map(|target| {
        object(vec![
            ("upstream", optional(target.upstream.as_deref())),
            ("id", string(&target.id)),
            ("listed", report.is_listed(target).map_or(Value::Null, Value::Bool)),
        ])
    });
    object(vec![
        ("name", string(&model.model.name.to_string())),
        ("targets", Value::Array(targets.collect())),
        ("strategy", string(model.strategy.name())),
        ("hidden", Value::Bool(model.is_hidden)),
    ])
}

/// How many client keys there are, and what is known of those that have names.
fn describe_keys(keys: &ClientKeys) -> Value {
    let describe = |key: &NamedKey| {
        let models = key.models.iter().map(|pattern| string(pattern)).collect();
        let mut members = vec![("name", string(&key.name)), ("models", Value::Array(models))];
        let limits = key.rates.members().into_iter();
        members.extend(limits.map(|(name, limit)| (name, limit.map_or(Value::Null, Value::from))));
        object(members)
    };
    object(vec![
        ("count", count(Some(keys.secrets().count()))),
        ("named", Value::Array(keys.named().iter().map(describe).collect())),
    ])
}

fn object(members: Vec<(&'static str, Value)>) -> Value {
    let mut value = Value::Null;
    for (name, member) in members {
        value[name] = member;
    }
    value
}

fn status(is_ok: bool) -> Value {
    string(if is_ok { "ok" } else { "error" })
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn optional(text: Option<&str>) -> Value {
    text.map_or(Value::Null, string)
}

fn count(number: Option<usize>) -> Value {
    number.map_or(Value::Null, |number| Value::from(number as u64))
}
