//! Files of the operator: the configuration file and the file of client keys. Any text is accepted or
//! refused with its line, always in the same way, and no secret is told.

use std::path::Path;
use std::time::SystemTime;

use ollama_openai_proxy::config::{self, Environment, Surroundings};
use ollama_openai_proxy::http::client_keys::{ClientKeys, Credentials};
use ollama_openai_proxy::upstream::TlsSettings;

/// Words of the configuration file.
pub const TOML_WORDS: &[&str] = &[
    "[server]\n",
    "[[upstream]]\n",
    "[[model]]\n",
    "name = \"lab\"\n",
    "base_url = \"http://h/v1\"\n",
    "api_key = \"${LAB_KEY}\"\n",
    "api_key_file = \"key\"\n",
    "pass_client_key = true\n",
    "headers = { ",
    "X-A = \"b\"",
    "profile = \"vllm\"\n",
    "models = [",
    "exclude = [",
    "list = [",
    "max_parallel = ",
    "ca_file = ",
    "tls_verify = false\n",
    "proxy = \"http://p:1\"\n",
    "timeout = ",
    "extra_body = { ",
    "use = [\"lab/m\"]\n",
    "strategy = \"sticky\"\n",
    "system = ",
    "parameters = { temperature = 0.5 }\n",
    "template = ",
    "messages = [{ role = \"user\", content = \"Hi\" }]\n",
    "license = ",
    "context_length = ",
    "capabilities = [\"tools\"]\n",
    "hidden = true\n",
    "host = ",
    "workers = ",
    "retry-max = ",
    "${",
    "}",
    "$${",
    "\"\"\"",
    "'''",
    "\\u00e9",
    "\\U0001F600",
    "\"",
    "'",
    "#",
    "=",
    ".",
    ",",
    "{",
    "[[",
    "]]",
    "\n",
    "\r\n",
    "1979-05-27T07:32:00Z",
    "0x1F",
    "1_000",
    "inf",
    "nan",
    "true",
    "-1",
    "99999999999999999999",
    "\u{feff}",
];

/// Words of the file of keys.
pub const KEY_WORDS: &[&str] = &[
    "key-1-of-many", "\n", "\r\n", "#", " ", "\t", ",", "\u{feff}", "\u{e9}", "\0", "12345678",
    "1234567",
];

/// What no problem may tell.
const MARK: &str = "pl4nted-k3y-0123456789";

/// The longest problem: it may name a key of the file as it is written.
const LONGEST_PROBLEM: usize = 4096;

/// The text of a configuration file.
pub fn config_file(data: &[u8]) {
    let (problems, outline) = parse(data, false);
    assert_eq!((&problems, &outline), (&parse(data, false).0, &parse(data, false).1), "read twice");
    let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
    for (line, problem) in &problems {
        let rest = problem.strip_prefix("/nowhere/proxy.toml:").expect("the file's name");
        let (number, said) = rest.split_once(": ").expect("a line and a text");
        assert_eq!(number.parse(), Ok(*line), "{problem}");
        assert!((1..=lines).contains(line), "line {line} of {lines}: {problem}");
        assert!(!said.trim().is_empty() && !problem.contains(['\n', '\r']), "{problem:?}");
        assert!(problem.len() <= LONGEST_PROBLEM, "{} bytes", problem.len());
        assert!(!problem.contains(MARK), "a secret is told: {problem}");
    }
    // The options alone are read from the same text, without what is wrong elsewhere.
    let (fewer, _) = parse(data, true);
    assert!(fewer.len() <= problems.len(), "{fewer:#?} but {problems:#?}");
}

/// The problems of a file, and an outline of what it says.
fn parse(data: &[u8], is_server_only: bool) -> (Vec<(usize, String)>, String) {
    let find = |name: &str| match name {
        "LAB_KEY" | "TOKEN" => Some(MARK.to_owned()),
        "HOME" => Some("/nowhere".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let find_proxy =
        |names: &[&'static str]| names.iter().find_map(|name| Some((*name, find(name)?)));
    let environment = Environment {
        find: &find,
        home: find("HOME"),
        surroundings: Surroundings { find_proxy: &find_proxy, tls: &TlsSettings::default() },
        is_server_only,
    };
    let path = Path::new("/nowhere/proxy.toml");
    let file = config::parse_file(data, (path, SystemTime::UNIX_EPOCH), &environment);
    if file.problems.is_empty() && !is_server_only {
        let mut names: Vec<&str> = file.upstreams.iter().map(|it| it.name.as_str()).collect();
        assert!(names.iter().all(|name| !name.is_empty()), "{names:?}");
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "two upstreams of one name");
        assert!(!file.has_upstreams || count > 0, "upstreams are defined, and there is none");
        assert!(file.models.iter().all(|model| !model.model.name.is_empty()));
    }
    let names = file.upstreams.iter().map(|it| it.name.as_str());
    let models = file.models.iter().map(|it| it.model.name.as_str());
    let outline: Vec<&str> = names.chain(models).collect();
    (file.problems, format!("{outline:?} {}", file.options.len()))
}

/// The text of a file of client keys.
pub fn key_file(data: &[u8]) {
    let marked = [data, b"\n", MARK.as_bytes(), b" \n"].concat();
    for bytes in [data, marked.as_slice()] {
        let keys = match ClientKeys::parse_file(bytes) {
            Ok(keys) => keys,
            Err(why) => {
                assert!(!why.is_empty() && why.len() < 256 && !why.contains(MARK), "{why}");
                assert_eq!(ClientKeys::parse_file(bytes).err(), Some(why), "read twice");
                continue;
            }
        };
        check_keys(bytes, &keys);
    }
}

/// Each key of the file is accepted in each way to send it, and nothing else is.
fn check_keys(bytes: &[u8], keys: &ClientKeys) {
    let text = std::str::from_utf8(bytes).expect("what was read is text");
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let lines = lines.filter(|it| !it.is_empty() && !it.starts_with('#'));
    let lines: Vec<&str> = lines.filter_map(|line| line.split_ascii_whitespace().next()).collect();
    // Behind a name stands the key; the whole is one, too, if it is not too long.
    let is_name = |name: &str| keys.named().iter().any(|it| it.name == name);
    let mut listed = Vec::new();
    for line in lines {
        let key = line.split_once(':').filter(|(name, key)| is_name(name) && key.len() >= 8);
        listed.extend(key.map(|(_, key)| key));
        listed.extend((line.len() <= 512).then_some(line));
    }
    for named in keys.named() {
        let limits = named.rates.members().into_iter().filter_map(|(_, limit)| limit);
        assert!(limits.into_iter().all(|limit| limit > 0), "a limit of nothing");
        assert!(!named.name.is_empty() && named.models.iter().all(|it| !it.is_empty()));
    }
    assert!(!keys.is_empty() && !listed.is_empty());
    let shown = format!("{keys:?}");
    let bearer = |key: &str| {
        let value = format!("Bearer {key}");
        keys.authorize(Credentials { authorization: Some(&value), api_key: None })
    };
    for key in listed.iter().take(16) {
        assert!(bearer(key), "a key of the file is refused");
        assert!(keys.authorize(Credentials { authorization: None, api_key: Some(key) }));
        assert!(!shown.contains(key), "a key is shown");
        let longer = format!("{key}x");
        assert_eq!(bearer(&longer), listed.contains(&longer.as_str()), "a longer one");
        let shorter = &key[..key.len() - 1];
        assert_eq!(bearer(shorter), listed.contains(&shorter), "a shorter one");
    }
    assert!(!keys.authorize(Credentials::default()), "no key is enough");
    assert!(!bearer(""));
}
