//! The section `[[upstream]]`: its table of keys, and what must agree among them.

use serde_json::Map;

use super::node::{Item, Member, Node};
use super::scope::{KeySpec, Scope};
use crate::backends::profiles;
use crate::config::nearest::suggest;
use crate::config::{parsers, upstream_values};
use crate::observe::redact::Secret;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::proxy::{FindVariable, Proxy};
use crate::upstream::settings::{ServerSettings, TlsSettings};
use crate::upstream::{check_tls_files, read_api_key_file};

/// The section's name in messages.
const SECTION: &str = "[[upstream]]";

/// The value of `proxy` for none.
const NO_PROXY: &str = "none";

/// Every key of an upstream.
pub const UPSTREAM_KEYS: &[KeySpec<ServerSettings>] = &[
    KeySpec {
        key: "name",
        example: "\"lab\"",
        help: "letters, digits, - _ . ; needed",
        is_needed: true,
        apply: |server, member, scope| {
            scope.set_text(&mut server.name, member, upstream_values::parse_upstream_name);
        },
    },
    KeySpec {
        key: "base_url",
        example: "\"https://vllm.lan/v1\"",
        help: "needed",
        is_needed: true,
        apply: apply_base_url,
    },
    KeySpec {
        key: "api_key",
        example: "\"${LAB_KEY}\"",
        help: "or api_key_file",
        is_needed: false,
        apply: |server, member, scope| {
            let parse = |text: &str| parsers::parse_api_key(text.trim()).map(Some);
            scope.set_text(&mut server.api_key, member, parse);
        },
    },
    KeySpec {
        key: "api_key_file",
        example: "\"/run/secrets/lab\"",
        help: "read anew on reload and after a 401",
        is_needed: false,
        apply: |server, member, scope| {
            server.api_key_file = scope.path(member);
            let key = server.api_key_file.as_deref().map(|path| read_api_key_file(path).map(Some));
            scope.set(&mut server.api_key, member, key);
        },
    },
    KeySpec {
        key: "pass_client_key",
        example: "false",
        help: "true: the client's own key goes up instead",
        is_needed: false,
        apply: |server, member, scope| {
            let value = scope.boolean(member).map(Ok);
            scope.set(&mut server.pass_client_key, member, value);
        },
    },
    KeySpec {
        key: "headers",
        example: "{ X-Team = \"ml\" }",
        help: "sent with each request",
        is_needed: false,
        apply: apply_headers,
    },
    KeySpec {
        key: "profile",
        example: "\"vllm\"",
        help: "else found out",
        is_needed: false,
        apply: apply_profile,
    },
    KeySpec {
        key: "models",
        example: "[\"qwen*\", \"llama*\"]",
        help: "only these of its list",
        is_needed: false,
        apply: |server, member, scope| apply_ids(&mut server.models, member, scope),
    },
    KeySpec {
        key: "exclude",
        example: "[\"*-base\"]",
        help: "and not these",
        is_needed: false,
        apply: |server, member, scope| apply_ids(&mut server.exclude, member, scope),
    },
    KeySpec {
        key: "list",
        example: "[\"m1\", \"m2\"]",
        help: "a fixed list, which is not asked for",
        is_needed: false,
        apply: |server, member, scope| {
            let mut ids = Vec::new();
            apply_ids(&mut ids, member, scope);
            server.list = Some(ids);
        },
    },
    KeySpec {
        key: "max_parallel",
        example: "8",
        help: "requests at once; 0 is no limit",
        is_needed: false,
        apply: |server, member, scope| {
            let number = scope.integer(member, 0..=65_536);
            let number = number.and_then(|number| usize::try_from(number).ok()).map(Ok);
            scope.set(&mut server.max_parallel, member, number);
        },
    },
    KeySpec {
        key: "ca_file",
        example: "\"/etc/ssl/lan.pem\"",
        help: "authorities beside the built-in ones",
        is_needed: false,
        apply: |server, member, scope| server.tls.ca_file = scope.path(member),
    },
    KeySpec {
        key: "client_cert_file",
        example: "\"client.pem\"",
        help: "mutual TLS",
        is_needed: false,
        apply: |server, member, scope| server.tls.client_cert_file = scope.path(member),
    },
    KeySpec {
        key: "client_key_file",
        example: "\"client.key\"",
        help: "its private key",
        is_needed: false,
        apply: |server, member, scope| server.tls.client_key_file = scope.path(member),
    },
    KeySpec {
        key: "tls_verify",
        example: "true",
        help: "false accepts any certificate: for tests",
        is_needed: false,
        apply: |server, member, scope| {
            let value = scope.boolean(member).map(Ok);
            scope.set(&mut server.tls.verify, member, value);
        },
    },
    KeySpec {
        key: "proxy",
        example: "\"http://proxy:3128\"",
        help: "or \"none\"; else HTTP(S)_PROXY and NO_PROXY",
        is_needed: false,
        apply: |server, member, scope| {
            let text = scope.text(member).filter(|text| *text != NO_PROXY);
            scope.set(
                &mut server.proxy,
                member,
                text.map(|text| Proxy::configured(text).map(Some)),
            );
        },
    },
    KeySpec {
        key: "timeout",
        example: "300",
        help: "seconds of silence",
        is_needed: false,
        apply: |server, member, scope| {
            let text = scope.number_text(member);
            let time = text.map(|text| parsers::parse_positive_seconds(&text).map(Some));
            scope.set(&mut server.timeout, member, time);
        },
    },
    KeySpec {
        key: "extra_body",
        example: "{ provider = { sort = \"price\" } }",
        help: "added to requests that lack it",
        is_needed: false,
        apply: |server, member, scope| {
            scope.mask_variables(&member.node);
            server.extra_body = scope.object(member).unwrap_or_else(Map::new);
        },
    },
];

/// What the environment says of all upstreams.
pub struct Surroundings<'a> {
    /// Finds the variables of proxies.
    pub find_proxy: &'a FindVariable<'a>,
    /// The authorities of the machine.
    pub tls: &'a TlsSettings,
}

/// The upstreams of the file, of which each has a name of its own.
pub fn read_all(
    member: &Member,
    surroundings: &Surroundings<'_>,
    scope: &mut Scope<'_>,
) -> Vec<ServerSettings> {
    let mut servers = Vec::new();
    let mut names: Vec<(String, usize)> = Vec::new();
    for node in sections(member, SECTION, scope) {
        let Some(server) = read(node, surroundings, scope) else { continue };
        match names.iter().find(|(name, _)| *name == server.name) {
            Some((_, line)) => {
                let problem = format!("the name is taken by the upstream in line {line}");
                scope.problems.add(node.line, &problem);
            }
            None => names.push((server.name.clone(), node.line)),
        }
        servers.push(server);
    }
    servers
}

/// The tables of a section that may be there several times.
pub fn sections<'n>(member: &'n Member, section: &str, scope: &mut Scope<'_>) -> &'n [Node] {
    match &member.node.item {
        Item::List(nodes) => nodes,
        Item::Unknown => &[],
        _ => {
            refuse_brackets(member.line, section, scope);
            &[]
        }
    }
}

/// The members of a section that may stand several times; another value is a problem.
pub(super) fn table<'n>(
    node: &'n Node,
    section: &str,
    scope: &mut Scope<'_>,
) -> Option<&'n Vec<Member>> {
    match &node.item {
        Item::Table(members) => Some(members),
        _ => {
            refuse_brackets(node.line, section, scope);
            None
        }
    }
}

fn refuse_brackets(line: usize, section: &str, scope: &mut Scope<'_>) {
    scope.problems.add(line, &format!("write the section as {section}, in two brackets"));
}

/// One upstream; `None` without a name.
fn read(
    node: &Node,
    surroundings: &Surroundings<'_>,
    scope: &mut Scope<'_>,
) -> Option<ServerSettings> {
    let members = table(node, SECTION, scope)?;
    let mut server = ServerSettings { name: String::new(), ..ServerSettings::default() };
    server.tls.system_ca_file.clone_from(&surroundings.tls.system_ca_file);
    server.tls.system_ca_dir.clone_from(&surroundings.tls.system_ca_dir);
    scope.read_section((SECTION, UPSTREAM_KEYS), &mut server, (node.line, members));
    let find = |key: &str| members.iter().find(|member| member.key == key);
    check_agreement(&server, (node.line, &find), scope);
    if find("proxy").is_none() && find("base_url").is_some() {
        match Proxy::select(&server.base_url, surroundings.find_proxy) {
            Ok(proxy) => server.proxy = proxy,
            Err(problem) => scope.problems.add(node.line, &problem),
        }
    }
    (!server.name.is_empty()).then_some(server)
}

/// Finds a member of a section by its key.
type FindMember<'a, 'n> = dyn Fn(&str) -> Option<&'n Member> + 'a;

const TWO_KEYS: &str =
    "only one key can be sent, and the header Authorization is set, too: remove one of them";

/// What one key says must not contradict another one.
fn check_agreement<'n>(
    server: &ServerSettings,
    (line, find): (usize, &FindMember<'_, 'n>),
    scope: &mut Scope<'_>,
) {
    let key = find("api_key").or_else(|| find("api_key_file"));
    if let (Some(_), Some(file)) = (find("api_key"), find("api_key_file")) {
        scope.refuse(file, "api_key is set, too: remove one of them");
    }
    check_files(&server.tls, find, scope);
    let authorization =
        server.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let has_user = server.base_url.auth().is_some();
    if let Some(key) = key.filter(|_| has_user || authorization) {
        let other = if has_user { "a user name in base_url" } else { "the header Authorization" };
        scope.refuse(
            key,
            &format!("only one key can be sent, and {other} is set, too: remove one of them"),
        );
    } else if let Some(url) = find("base_url").filter(|_| has_user && authorization) {
        scope.refuse(url, TWO_KEYS);
    }
    let has_key = key.is_some() || has_user || authorization || server.pass_client_key;
    if has_key || !server.base_url.is_openai() || scope.has_broken_line(line) {
        return;
    }
    // A URL that was refused leaves the default.
    let is_openai = |url: &&Member| matches!(&url.node.item, Item::Text(text) if BaseUrl::parse(text.trim()).is_ok());
    if let Some(url) = find("base_url").filter(is_openai) {
        scope.problems.add(url.line, "api.openai.com needs api_key or api_key_file");
    }
}

/// Certificates and keys must be there and belong together.
fn check_files<'n>(tls: &TlsSettings, find: &FindMember<'_, 'n>, scope: &mut Scope<'_>) {
    if tls.ca_file.is_none() && tls.client_cert_file.is_none() && tls.client_key_file.is_none() {
        return;
    }
    for (key, why) in check_tls_files(tls) {
        // A key that is missing has no line.
        let other = || find("client_cert_file").or_else(|| find("client_key_file"));
        match find(key) {
            Some(member) => scope.refuse(member, &why),
            None => {
                let line = other().map_or(0, |member| member.line);
                scope.problems.add(line, &format!("{key}: {why}"));
            }
        }
    }
}

fn apply_base_url(server: &mut ServerSettings, member: &Member, scope: &mut Scope<'_>) {
    scope.set_text(&mut server.base_url, member, |text| BaseUrl::parse(text.trim()));
    // Some gateways have keys in their paths and queries; a host is no secret.
    let url = server.base_url.join("");
    let path = url.strip_prefix(server.base_url.origin()).unwrap_or_default();
    let secret = member.node.variables.iter().filter(|value| path.contains(value.as_str()));
    scope.secrets.extend(secret.map(Secret::new));
}

fn apply_headers(server: &mut ServerSettings, member: &Member, scope: &mut Scope<'_>) {
    for header in scope.table(member).unwrap_or_default() {
        let Some(value) = scope.item_text(member, &header.node) else { continue };
        let added = upstream_values::parse_header(&header.key, value)
            .and_then(|parsed| upstream_values::add_header(&mut server.headers, parsed));
        if let Err(why) = added {
            scope.refuse_item(member, &header.node, &why);
        }
    }
}

fn apply_profile(server: &mut ServerSettings, member: &Member, scope: &mut Scope<'_>) {
    let parse = |text: &str| {
        upstream_values::parse_profile(text).map_err(|expected| {
            let near = suggest(text, profiles::names());
            near.map_or_else(|| expected.clone(), |near| format!("{expected}; {near}"))
        })
    };
    scope.set_text(&mut server.profile, member, parse);
}

/// Ids of models, or patterns of them.
fn apply_ids(slot: &mut Vec<String>, member: &Member, scope: &mut Scope<'_>) {
    for (node, id) in scope.texts(member).unwrap_or_default() {
        if upstream_values::is_id(id) {
            slot.push(id.to_owned());
        } else {
            scope.refuse_item(member, node, "expected the id of a model");
        }
    }
}
