//! The rows of the options that describe the upstream of the environment, and other names for its models.

use super::{EMPTY_OPTION, OptionSpec, display_path, set};
use crate::config::{Config, parsers, upstream_values};
use crate::observe::redact::Secret;
use crate::upstream::base_url::BaseUrl;

/// The header of [`ORGANIZATION`].
const ORGANIZATION_HEADER: &str = "OpenAI-Organization";

/// The header of [`PROJECT`].
const PROJECT_HEADER: &str = "OpenAI-Project";

/// What most rows here have in common.
const UPSTREAM_OPTION: OptionSpec = OptionSpec { is_upstream: true, ..EMPTY_OPTION };

pub(super) const API_KEY: OptionSpec = OptionSpec {
    variable: "OPENAI_API_KEY",
    usage: "--api-key KEY",
    help: "Key for the upstream; api.openai.com needs one. Flags show in process lists.",
    secret: true,
    apply: |c, text| set(&mut c.upstream.api_key, parsers::parse_api_key(text).map(Some)),
    show: |c| mask(c.upstream.api_key.is_some()),
    ..UPSTREAM_OPTION
};

pub(super) const API_KEY_FILE: OptionSpec = OptionSpec {
    variable: "OPENAI_API_KEY_FILE",
    usage: "FILE",
    help: "File that holds the upstream's key.",
    is_path: true,
    apply: |c, text| set(&mut c.upstream.api_key_file, parsers::parse_path(text).map(Some)),
    show: |c| display_path(c.upstream.api_key_file.as_ref()),
    ..UPSTREAM_OPTION
};

pub(super) const BASE_URL: OptionSpec = OptionSpec {
    variable: "OPENAI_API_BASE_URL",
    aliases: &["OPENAI_BASE_URL"],
    usage: "--base-url URL",
    help: "The OpenAI-compatible server; without a path, `/v1` is added.",
    apply: |c, text| set(&mut c.upstream.base_url, BaseUrl::parse(text)),
    show: |c| c.upstream.base_url.to_string(),
    ..UPSTREAM_OPTION
};

pub(super) const PROFILE: OptionSpec = OptionSpec {
    variable: "UPSTREAM_PROFILE",
    usage: "--profile NAME",
    help: "The server's profile, such as `vllm`; `auto` detects it.",
    apply: |c, text| set(&mut c.upstream.profile, upstream_values::parse_profile(text)),
    show: |c| c.upstream.profile.map_or(upstream_values::AUTO, |profile| profile.name).to_owned(),
    ..UPSTREAM_OPTION
};

pub(super) const ORGANIZATION: OptionSpec = OptionSpec {
    variable: "OPENAI_ORGANIZATION",
    usage: "ID",
    help: "Sent as `OpenAI-Organization`.",
    secret: true,
    apply: |c, text| add_header(c, ORGANIZATION_HEADER, text),
    show: |c| mask(has_header(c, ORGANIZATION_HEADER)),
    ..UPSTREAM_OPTION
};

pub(super) const PROJECT: OptionSpec = OptionSpec {
    variable: "OPENAI_PROJECT",
    usage: "ID",
    help: "Sent as `OpenAI-Project`.",
    secret: true,
    apply: |c, text| add_header(c, PROJECT_HEADER, text),
    show: |c| mask(has_header(c, PROJECT_HEADER)),
    ..UPSTREAM_OPTION
};

pub(super) const HEADERS: OptionSpec = OptionSpec {
    variable: "UPSTREAM_HEADERS",
    usage: "LINES",
    help: "More headers: `Name: value`, one per line.",
    secret: true,
    separator: "\n",
    apply: |c, text| {
        let headers = upstream_values::parse_headers(text)?;
        headers
            .into_iter()
            .try_for_each(|header| upstream_values::add_header(&mut c.upstream.headers, header))?;
        Ok(None)
    },
    show: |c| {
        let own = [ORGANIZATION_HEADER, PROJECT_HEADER];
        mask(c.upstream.headers.iter().any(|(name, _)| !own.contains(&name.as_str())))
    },
    ..UPSTREAM_OPTION
};

pub(super) const PASS_CLIENT_KEY: OptionSpec = OptionSpec {
    variable: "PASS_CLIENT_KEY",
    usage: "BOOL",
    help: "Send the client's own key upstream.",
    apply: |c, text| set(&mut c.upstream.pass_client_key, parsers::parse_bool(text)),
    show: |c| c.upstream.pass_client_key.to_string(),
    ..UPSTREAM_OPTION
};

pub(super) const CA_FILE: OptionSpec = OptionSpec {
    variable: "UPSTREAM_CA_FILE",
    usage: "FILE",
    help: "Authorities (PEM) to trust, too, like `SSL_CERT_FILE` and `SSL_CERT_DIR`.",
    is_path: true,
    apply: |c, text| set(&mut c.upstream.tls.ca_file, parsers::parse_path(text).map(Some)),
    show: |c| display_path(c.upstream.tls.ca_file.as_ref()),
    ..UPSTREAM_OPTION
};

pub(super) const CLIENT_CERT_FILE: OptionSpec = OptionSpec {
    variable: "UPSTREAM_CLIENT_CERT_FILE",
    usage: "FILE",
    help: "Certificate for mutual TLS.",
    is_path: true,
    apply: |c, text| set(&mut c.upstream.tls.client_cert_file, parsers::parse_path(text).map(Some)),
    show: |c| display_path(c.upstream.tls.client_cert_file.as_ref()),
    ..UPSTREAM_OPTION
};

pub(super) const CLIENT_KEY_FILE: OptionSpec = OptionSpec {
    variable: "UPSTREAM_CLIENT_KEY_FILE",
    usage: "FILE",
    help: "Private key of that certificate.",
    is_path: true,
    apply: |c, text| set(&mut c.upstream.tls.client_key_file, parsers::parse_path(text).map(Some)),
    show: |c| display_path(c.upstream.tls.client_key_file.as_ref()),
    ..UPSTREAM_OPTION
};

pub(super) const TLS_VERIFY: OptionSpec = OptionSpec {
    variable: "UPSTREAM_TLS_VERIFY",
    usage: "BOOL",
    help: "`false` accepts any certificate. For tests only.",
    apply: |c, text| set(&mut c.upstream.tls.verify, parsers::parse_bool(text)),
    show: |c| c.upstream.tls.verify.to_string(),
    ..UPSTREAM_OPTION
};

pub(super) const MODELS: OptionSpec = OptionSpec {
    variable: "UPSTREAM_MODELS",
    usage: "ID,...",
    help: "The server's models, if it has no list.",
    separator: ",",
    apply: |c, text| set(&mut c.upstream.list, upstream_values::parse_ids(text).map(Some)),
    show: |c| c.upstream.list.as_ref().map(|ids| ids.join(",")).unwrap_or_default(),
    ..UPSTREAM_OPTION
};

pub(super) const EXTRA_BODY: OptionSpec = OptionSpec {
    variable: "UPSTREAM_EXTRA_BODY",
    usage: "JSON",
    help: "JSON members for each request that lacks them.",
    secret: true,
    apply: |c, text| set(&mut c.upstream.extra_body, upstream_values::parse_object(text)),
    show: |c| mask(!c.upstream.extra_body.is_empty()),
    ..UPSTREAM_OPTION
};

pub(super) const MODEL_ALIASES: OptionSpec = OptionSpec {
    variable: "MODEL_ALIASES",
    usage: "NAME=ID,...",
    help: "More names: `llama3.2=gpt-4o-mini,fast=UPSTREAM/ID`.",
    separator: ",",
    apply: |c, text| set(&mut c.model_aliases, upstream_values::parse_aliases(text)),
    show: |c| {
        let pairs = c.model_aliases.iter().map(|(name, id)| format!("{name}={id}"));
        pairs.collect::<Vec<_>>().join(",")
    },
    ..EMPTY_OPTION
};

/// What is shown of a secret.
fn mask(is_set: bool) -> String {
    if is_set { "***".to_owned() } else { String::new() }
}

fn add_header(config: &mut Config, name: &str, text: &str) -> Result<Option<String>, String> {
    let value = upstream_values::parse_header_value(text)?;
    upstream_values::add_header(
        &mut config.upstream.headers,
        (name.to_owned(), Secret::new(value)),
    )?;
    Ok(None)
}

fn has_header(config: &Config, name: &str) -> bool {
    config.upstream.headers.iter().any(|(known, _)| known == name)
}
