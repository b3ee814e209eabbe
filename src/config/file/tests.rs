//! Files and what becomes of them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::models::configured::{Strategy, Target};
use crate::upstream::settings::TlsSettings;

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// A folder with a key, a certificate and its key; it is gone with its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("proxy-config-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        for (name, text) in [
            ("key", "file-s3cret-1\n"),
            ("bad-key", "s3cret two\n"),
            ("empty", " \n"),
            ("cert.pem", include_str!("../../../tests/support/certificates/issued.pem")),
            ("key.pem", include_str!("../../../tests/support/certificates/key.pem")),
            ("authority.pem", include_str!("../../../tests/support/certificates/authority.pem")),
        ] {
            fs::write(folder.join(name), text).expect("a file");
        }
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

thread_local! {
    static FOLDER: Folder = Folder::new();
}

/// The folder of this test, which has a thread of its own.
fn folder() -> PathBuf {
    FOLDER.with(|folder| folder.0.clone())
}

fn parse_with(text: &str, env: Pairs<'_>, is_server_only: bool) -> ConfigFile {
    let find = |name: &str| {
        env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    let find_proxy =
        |names: &[&'static str]| names.iter().find_map(|name| Some((*name, find(name)?)));
    let environment = Environment {
        find: &find,
        home: find("HOME"),
        surroundings: Surroundings { find_proxy: &find_proxy, tls: &TlsSettings::default() },
        is_server_only,
    };
    let path = folder().join("proxy.toml");
    let mut file = parse(text.as_bytes(), (&path, SystemTime::UNIX_EPOCH), &environment);
    let prefix = format!("{}:", path.display());
    for (line, problem) in &mut file.problems {
        let rest = problem.strip_prefix(&prefix).unwrap_or_else(|| panic!("{problem}"));
        let (number, rest) = rest.split_once(": ").expect("a line and a text");
        assert_eq!(number.parse(), Ok(*line), "{rest}");
        *problem = rest.to_owned();
    }
    file
}

/// A file without a mistake.
#[track_caller]
fn good(text: &str, env: Pairs<'_>) -> ConfigFile {
    let file = parse_with(text, env, false);
    assert_eq!(file.problems, [], "{text}");
    file
}

/// Each mistake of a file: its line, and words of its text.
#[track_caller]
fn bad(text: &str, env: Pairs<'_>, expected: &[(usize, &str)]) {
    let problems = parse_with(text, env, false).problems;
    let lines: Vec<_> = problems.iter().map(|(line, _)| *line).collect();
    let wanted: Vec<_> = expected.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, wanted, "{problems:#?}");
    for ((_, problem), (line, words)) in problems.iter().zip(expected) {
        assert!(problem.contains(words), "line {line}: {problem:?} lacks {words:?}");
        assert!(!problem.contains("s3cret"), "{problem}");
    }
}

/// An upstream's section with more lines.
fn upstream(more: &str) -> String {
    format!("[[upstream]]\nname = \"lab\"\nbase_url = \"http://h/v1\"\n{more}")
}

const KEYS: Pairs<'_> = &[("LAB_KEY", "lab-s3cret-1"), ("TOKEN", "t0ken-s3cret")];

#[test]
fn every_key_of_an_upstream_has_its_meaning() {
    let text = r#"
        [[upstream]]
        name = "lab"
        base_url = "https://vllm.lan/v1"
        api_key = "${LAB_KEY}"
        pass_client_key = true
        headers = { X-Team = "ml", "X-Token" = "a ${TOKEN}" }
        profile = "vllm"
        models = ["qwen*", "llama*"]
        exclude = ["*-base"]
        list = ["m1", "m2"]
        max_parallel = 8
        ca_file = "authority.pem"
        client_cert_file = "./cert.pem"
        client_key_file = "key.pem"
        tls_verify = false
        proxy = "http://proxy:3128"
        timeout = 1.5
        extra_body = { provider = { sort = "throughput" }, n = 1 }
        [[upstream]]
        name = "b.2"
        base_url = "http://b"
        api_key_file = "~/key"
    "#;
    let home = folder().display().to_string();
    let file = good(text, &[KEYS, &[("HOME", &home)]].concat());
    assert!(file.has_upstreams && file.models.is_empty());
    let [lab, other] = file.upstreams.as_slice() else { panic!("{:?}", file.upstreams) };
    assert_eq!(
        (lab.name.as_str(), lab.base_url.to_string()),
        ("lab", "https://vllm.lan/v1".into())
    );
    assert_eq!(lab.api_key.as_ref().map(Secret::expose), Some("lab-s3cret-1"));
    let headers: Vec<_> = lab.headers.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(headers, [("X-Team", "ml"), ("X-Token", "a t0ken-s3cret")]);
    assert_eq!(lab.profile.map(|it| it.name), Some("vllm"));
    assert_eq!(
        (lab.models.join(","), lab.exclude.join(",")),
        ("qwen*,llama*".into(), "*-base".into())
    );
    assert_eq!(lab.list.as_ref().map(|ids| ids.join(",")), Some("m1,m2".to_owned()));
    assert_eq!((lab.max_parallel, lab.pass_client_key, lab.tls.verify), (8, true, false));
    assert_eq!(lab.tls.ca_file, Some(folder().join("authority.pem")));
    assert_eq!(lab.tls.client_key_file, Some(folder().join("key.pem")));
    assert!(lab.tls.client_cert_file.is_some());
    let proxy = lab.proxy.as_ref().expect("a proxy");
    assert_eq!((proxy.to_string().as_str(), proxy.variable), ("proxy:3128", "proxy"));
    assert_eq!(lab.timeout, Some(std::time::Duration::from_millis(1500)));
    let extra = serde_json::Value::Object(lab.extra_body.clone()).to_string();
    assert_eq!(extra, r#"{"n":1,"provider":{"sort":"throughput"}}"#);
    assert_eq!(other.api_key.as_ref().map(Secret::expose), Some("file-s3cret-1"));
    assert_eq!(other.api_key_file, Some(folder().join("key")));
    let defaults = ServerSettings { name: "b.2".into(), ..ServerSettings::default() };
    assert_eq!((&other.tls, other.timeout, other.max_parallel), (&defaults.tls, None, 0));
}

#[test]
fn every_key_of_a_model_has_its_meaning() {
    let text = upstream(
        r#"[[model]]
        name = "llama3.2"
        use = ["lab/qwen3-32b", "lab/a/b:c"]
        strategy = "sticky"
        system = "Be brief."
        parameters = { temperature = 0.5, stop = "x", num_ctx = 4096 }
        template = "{{ .Prompt }}"
        messages = [{ role = "user", content = "Hi" }, { role = "assistant", content = "Ho" }]
        license = ["MIT"]
        context_length = 8192
        capabilities = ["completion", "vision"]
        hidden = true
        [[model]]
        name = "b"
        use = ["lab/x"]
        [model.parameters]
        top_k = 3
        "#,
    );
    let file = good(&text, &[]);
    let [first, second] = file.models.as_slice() else { panic!("{:?}", file.models) };
    let target = |id: &str| Target { upstream: Some("lab".into()), id: id.into() };
    assert_eq!(first.targets, [target("qwen3-32b"), target("a/b:c")]);
    assert_eq!((first.strategy, first.is_hidden), (Strategy::Sticky, true));
    assert_eq!(first.context_length, Some(8192));
    assert_eq!(first.capabilities, Some(vec!["completion".into(), "vision".into()]));
    let model = &first.model;
    assert_eq!(model.validate(), Ok(()));
    assert_eq!((model.name.as_str(), model.from.as_str()), ("llama3.2:latest", "lab/qwen3-32b"));
    assert_eq!(model.modified_at, "1970-01-01T00:00:00Z");
    let parameters = serde_json::Value::Object(model.parameters.clone()).to_string();
    assert_eq!(parameters, r#"{"num_ctx":4096,"stop":["x"],"temperature":0.5}"#);
    assert_eq!((model.system.as_str(), model.license.join("")), ("Be brief.", "MIT".into()));
    assert_eq!((model.messages.len(), model.template.as_str()), (2, "{{ .Prompt }}"));
    assert_eq!(second.strategy, Strategy::Order);
    assert_eq!(second.model.parameters["top_k"], 3);
    assert!(second.capabilities.is_none() && !second.is_hidden);
}

#[test]
fn models_alone_use_the_upstream_of_the_environment() {
    let file = good("[[model]]\nname = \"a\"\nuse = [\"default/b\"]\n", &[]);
    assert!(!file.has_upstreams && file.models.len() == 1);
    bad("[[model]]\nname = \"a\"\nuse = [\"lab/b\"]\n", &[], &[(3, "known upstreams are default")]);
}

#[test]
fn unknown_keys_and_sections_are_told_with_the_nearest_one() {
    let text = upstream(
        "api_kye = \"s3cret\"\nzzzzzzzzz = 1\n\"s3cret key\" = 1\nmodel = [\"a\"]\n[[model]]\nname = \"a\"\nuses = [\"lab/b\"]\n\
         [sever]\n[server]\nmax_quue = 1\nOLAMA_HOST = \"x\"\n[[upstreams]]\nname = \"s3cret\"\n",
    );
    bad(
        &text,
        &[],
        &[
            (4, "unknown key \"api_kye\" in [[upstream]]: did you mean api_key?"),
            (5, "known keys are name, base_url, api_key"),
            (6, "unknown key (not shown) in [[upstream]]"),
            (7, "did you mean models?"),
            (8, "[[model]] needs use"),
            (10, "unknown key \"uses\" in [[model]]: did you mean use?"),
            (11, "unknown section \"sever\": did you mean [server]?"),
            (13, "did you mean max-queue?"),
            (14, "did you mean host?"),
            (15, "unknown section \"upstreams\": did you mean [[upstream]]?"),
        ],
    );
    bad(
        "port = 1\nxyz = \"s3cret\"\n",
        &[],
        &[
            (1, "stands before all sections: put it below [server]"),
            (2, "known sections are [server], [[upstream]], [[model]] and [[key]]"),
        ],
    );
    bad("[upstream]\nname = \"a\"\n", &[], &[(1, "write the section as [[upstream]]")]);
    bad("[[server]]\nport = 1\n", &[], &[(1, "write the section as [server]")]);
}

#[test]
fn each_wrong_value_of_an_upstream_is_told_with_its_line() {
    let check = |line: &str, words: &str| bad(&upstream(line), &[], &[(4, words)]);
    check("api_key = 5", "api_key: expected a string, found a number");
    check("api_key = \"s3cret key\"", "api_key: expected the bare key");
    check("api_key = \"\"", "api_key: must not be empty");
    check("api_key_file = \"nowhere\"", "api_key_file: no such file");
    check("api_key_file = \"bad-key\"", "api_key_file: the file holds more than one key");
    check("api_key_file = \"empty\"", "api_key_file: the file is empty");
    check("pass_client_key = \"yes\"", "expected true or false, found a string");
    check("headers = \"X: s3cret\"", "headers: expected a table");
    check("headers = { Host = \"s3cret\" }", "host is set by the program");
    check("headers = { \"X Y\" = \"s3cret\" }", "letters, digits and hyphens");
    check("headers = { X-Y = 1 }", "headers: expected a string, found a number");
    check("headers = { X-Y = \"s3cret\\r\\nX: y\" }", "line breaks");
    check("headers = { X-Y = \"s3cret\", x-y = \"s3cret\" }", "twice");
    check("profile = \"vlm\"", "did you mean vllm?");
    check("models = \"qwen*\"", "models: expected an array, found a string");
    check("models = []", "models: must not be empty");
    check("exclude = [\"a\", 1]", "exclude: expected a string, found a number");
    check("list = [\"a\\nb\"]", "list: expected the id of a model");
    check("max_parallel = -1", "expected a whole number from 0 to 65536");
    check("max_parallel = 1.5", "expected a whole number, found a number");
    check("max_parallel = 99999999999999999999", "too large");
    check("ca_file = \"nowhere\"", "ca_file: no such file");
    check("ca_file = \"key\"", "ca_file: the file holds no certificate");
    check("client_cert_file = \"cert.pem\"", "client_key_file: is needed");
    check("client_key_file = \"key.pem\"", "client_cert_file: is needed");
    check("tls_verify = 0", "expected true or false, found a number");
    check("proxy = \"https://me:s3cret@p\"", "TLS to a proxy is not supported");
    check("proxy = true", "proxy: expected a string, found a boolean");
    check("timeout = 0", "timeout: expected seconds above 0");
    check("timeout = \"5m\"", "timeout: expected a number, found a string");
    check("timeout = 100000", "timeout: expected seconds above 0");
    check("timeout = 1979-05-27", "timeout: expected a number, found a date or time");
    check("extra_body = \"s3cret\"", "extra_body: expected a table");
    check("extra_body = { a = nan }", "extra_body: expected a finite number");
    check("extra_body = { a = [07:32:00] }", "expected a string, number, boolean, array or table");
    check("api_key = \"${NONE}\"", "the variable NONE is not set");
    check("headers = { X-Y = \"${s3cret\" }", "expected the name of a variable");
}

#[test]
fn names_addresses_and_keys_of_upstreams_must_agree() {
    bad(
        "[[upstream]]\n",
        &[],
        &[(1, "[[upstream]] needs name"), (1, "[[upstream]] needs base_url")],
    );
    bad(
        "[[upstream]]\nname = \"a/b\"\nbase_url = \"localhost:80\"\n[[upstream]]\nname = 1\nbase_url = 2\n",
        &[],
        &[
            (2, "name: expected 1 to 64 letters"),
            (3, "base_url: must start with http://"),
            (5, "name: expected a string"),
            (6, "base_url: expected a string"),
        ],
    );
    let twice = format!("{}{}", upstream(""), upstream(""));
    bad(&twice, &[], &[(4, "the name is taken by the upstream in line 1")]);
    bad(
        &upstream("api_key = \"s3cret\"\napi_key_file = \"key\"\n"),
        &[],
        &[(5, "api_key_file: api_key is set, too")],
    );
    bad(
        &upstream("headers = { Authorization = \"s3cret\" }\napi_key = \"s3cret\"\n"),
        &[],
        &[(5, "api_key: only one key can be sent")],
    );
    bad(
        "[[upstream]]\nname = \"a\"\nbase_url = \"http://me:s3cret@h\"\napi_key_file = \"key\"\n",
        &[],
        &[(4, "a user name in base_url")],
    );
    let openai = "[[upstream]]\nname = \"a\"\nbase_url = \"https://api.openai.com/v1\"\n";
    bad(openai, &[], &[(3, "api.openai.com needs api_key or api_key_file")]);
    good(&format!("{openai}pass_client_key = true\n"), &[]);
    good(&format!("{openai}api_key = \"k\"\n"), &[]);
}

#[test]
fn each_wrong_value_of_a_model_is_told_with_its_line() {
    let check = |line: &str, words: &str| {
        let model = format!("[[model]]\nname = \"a\"\nuse = [\"lab/b\"]\n{line}");
        bad(&upstream(&model), &[], &[(7, words)]);
    };
    check(
        "strategy = \"stcky\"",
        "expected one of order, least-busy, sticky; did you mean sticky?",
    );
    check("system = 1", "system: expected a string, found a number");
    check(
        "parameters = { temperature = \"hot\" }",
        "option \"temperature\" must be of type float32",
    );
    check("parameters = []", "parameters: expected a table, found an array");
    check("template = \"{{ if }\"", "template: ");
    check("messages = [{ content = \"s3cret\" }]", "expected a message");
    check("messages = [\"s3cret\"]", "expected a message");
    check("context_length = 0", "expected a whole number from 1 to");
    check("capabilities = [\"tool\"]", "did you mean tools?");
    check("hidden = \"no\"", "expected true or false, found a string");
    check("license = 1", "license: expected a string, found a number");
}

#[test]
fn what_a_model_uses_must_be_there() {
    let check = |list: &str, problems: &[(usize, &str)]| {
        let model = format!("[[model]]\nname = \"a\"\nuse = {list}\n");
        bad(&upstream(&model), &[], problems);
    };
    check("[]", &[(6, "use: must not be empty")]);
    check("\"lab/x\"", &[(6, "use: expected an array, found a string")]);
    check("[\"gpt-4o\"]", &[(6, "use: expected UPSTREAM/MODEL")]);
    check("[\"lab/\"]", &[(6, "use: expected UPSTREAM/MODEL")]);
    check("[\"/x\"]", &[(6, "use: expected UPSTREAM/MODEL")]);
    check("[\"lab/x\", \"lab/x\"]", &[(6, "twice")]);
    check("[\"lap/x\"]", &[(6, "unknown upstream \"lap\": did you mean lab?")]);
    check(
        "[\n\"lab/x\",\n\"openai/y\"\n]",
        &[(8, "unknown upstream \"openai\": known upstreams are lab")],
    );
    let twice = "[[model]]\nname = \"a\"\nuse = [\"lab/b\"]\n[[model]]\nname = \"A:latest\"\nuse = [\"lab/c\"]\n";
    bad(&upstream(twice), &[], &[(7, "the name is taken by the model in line 4")]);
    bad(
        &upstream("[[model]]\nname = \"a:\"\nuse = [\"lab/b\"]"),
        &[],
        &[(5, "name: expected the name")],
    );
}

#[test]
fn names_of_models_hold_no_blanks_and_ids_may() {
    for name in ["a b", "a:", "/a", "a\\tb"] {
        let model = format!("[[model]]\nname = \"{name}\"\nuse = [\"lab/b\"]");
        bad(&upstream(&model), &[], &[(5, "name: expected the name of a model")]);
    }
    let file = good(&upstream("[[model]]\nname = \"a\"\nuse = [\"lab/My Model.gguf\"]"), &[]);
    assert_eq!(file.models[0].targets[0].id, "My Model.gguf");
}

#[test]
fn a_broken_line_is_told_once_and_the_rest_of_the_file_as_well() {
    let text =
        upstream("api_kye = \"s3cret\"\n[[model]\nname = \"a\"\nuse = [\"lab/b\"]\nhidden = yes\n");
    let problems = parse_with(&text, &[], false).problems;
    let lines: Vec<_> = problems.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines.iter().filter(|line| **line == 5).count(), 1, "{problems:?}");
    assert!(lines.contains(&4) && lines.contains(&8), "{problems:?}");
    assert!(problems.iter().all(|(_, text)| !text.contains("s3cret")), "{problems:?}");
    let broken =
        parse_with("[[upstream]]\nname = \"a\nbase_url = \"http://h\"\n", &[], false).problems;
    assert!(broken.iter().all(|(line, _)| *line == 2), "nothing is missing: {broken:?}");
    let text = "[server]\nport = x\n[[upstream]]\nname = \"lab\"\n[[model]]\nname = \"a\"\nuse = [\"lap/x\"]\n";
    bad(
        text,
        &[],
        &[
            (2, ""),
            (3, "[[upstream]] needs base_url"),
            (7, "unknown upstream \"lap\": did you mean lab?"),
        ],
    );
    // What stands in a later section is missing in an earlier one all the same.
    let text = "[[upstream]]\nname = \"a\"\n[[upstream]]\nname = \"b\"\nbase_url = h\n";
    bad(text, &[], &[(1, "[[upstream]] needs base_url"), (5, "")]);
    let told = parse(
        b"a = 1\nb = \"\xff\"\n",
        (Path::new("f"), SystemTime::UNIX_EPOCH),
        &Environment {
            find: &|_| None,
            home: None,
            surroundings: Surroundings { find_proxy: &|_| None, tls: &TlsSettings::default() },
            is_server_only: false,
        },
    );
    assert_eq!(told.problems, [(2, "f:2: not UTF-8 text".to_owned())]);
}

#[test]
fn variables_are_secrets_where_keys_may_stand() {
    let text = "[[upstream]]\nname = \"${NAME}\"\nbase_url = \"https://${HOST}/${TOKEN}/v1?key=${LAB_KEY}\"\n\
                extra_body = { a = [\"x ${TOKEN}\"] }\n";
    let env = [KEYS, &[("NAME", "lab"), ("HOST", "gateway.example")]].concat();
    let file = good(text, &env);
    let secrets: Vec<_> = file.secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["t0ken-s3cret", "lab-s3cret-1", "t0ken-s3cret"]);
    assert_eq!(file.upstreams[0].name, "lab");
    assert_eq!(file.upstreams[0].extra_body["a"][0], "x t0ken-s3cret");
}

#[test]
fn a_proxy_of_the_environment_applies_to_each_upstream_that_names_none() {
    let env = [("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "free")];
    let text = "[[upstream]]\nname = \"a\"\nbase_url = \"http://h\"\n\
                [[upstream]]\nname = \"b\"\nbase_url = \"http://h\"\nproxy = \"none\"\n\
                [[upstream]]\nname = \"c\"\nbase_url = \"http://free\"\n";
    let file = good(text, &env);
    let proxies: Vec<_> =
        file.upstreams.iter().map(|it| it.proxy.as_ref().map(ToString::to_string)).collect();
    assert_eq!(proxies, [Some("p:1".to_owned()), None, None]);
    bad(&upstream(""), &[("HTTP_PROXY", "ftp://s3cret")], &[(1, "HTTP_PROXY: expected http://")]);
}

#[test]
fn options_stand_under_the_names_of_their_flags() {
    let text = r#"[server]
        host = "0.0.0.0:1"
        max-queue = 7
        retry_max = 2
        log-bodies = true
        request-timeout = 1.5
        origins = ["http://a", "http://b"]
        proxy-api-keys = ["${LAB_KEY}", "k2"]
        proxy-api-keys-file = "keys"
        state = "~/state.json"
        debug = 1
        api-key-file = "key"
        upstream-headers = ["X-A: 1", "X-B: 2"]
        upstream-extra-body = { a = 1 }
        log-level = ""
    "#;
    let file = good(text, KEYS);
    let value = |variable: &str| {
        let found = file.options.iter().find(|(row, _)| row.variable == variable);
        found.map(|(_, value)| (value.text.as_str(), value.is_masked))
    };
    let in_folder = |name: &str| folder().join(name).display().to_string();
    assert_eq!(value("OLLAMA_HOST"), Some(("0.0.0.0:1", false)));
    assert_eq!(value("OLLAMA_MAX_QUEUE"), Some(("7", false)));
    assert_eq!(value("RETRY_MAX"), Some(("2", false)));
    assert_eq!(value("LOG_BODIES"), Some(("true", false)));
    assert_eq!(value("REQUEST_TIMEOUT"), Some(("1.5", false)));
    assert_eq!(value("OLLAMA_ORIGINS"), Some(("http://a,http://b", false)));
    assert_eq!(value("PROXY_API_KEYS"), Some(("lab-s3cret-1,k2", true)));
    assert_eq!(value("PROXY_API_KEYS_FILE"), Some((in_folder("keys").as_str(), false)));
    assert_eq!(value("PROXY_STATE"), Some(("~/state.json", false)));
    assert_eq!(value("OLLAMA_DEBUG"), Some(("1", false)));
    assert_eq!(value("OPENAI_API_KEY_FILE"), Some((in_folder("key").as_str(), false)));
    assert_eq!(value("UPSTREAM_HEADERS"), Some(("X-A: 1\nX-B: 2", false)));
    assert_eq!(value("UPSTREAM_EXTRA_BODY"), Some((r#"{"a":1}"#, false)));
    assert_eq!(value("LOG_LEVEL"), None);
    let label = &file.options[0].1.label;
    assert!(label.ends_with("proxy.toml:2: host"), "{label}");
    bad(
        "[server]\nport = [1]\nconfig = \"x\"\nworkers = 1\nPROXY_WORKERS = 2\nhost = 1979-05-27\n",
        &[],
        &[
            (2, "port: expected a single value, found an array"),
            (3, "unknown key \"config\" in [server]"),
            (5, "set twice"),
            (6, "host: expected a single value, found a date or time"),
        ],
    );
}

#[test]
fn a_health_check_reads_the_options_only() {
    let text = "[server]\nport = 1\n[[upstream]]\napi_key = \"${NONE}\"\nnonsense = 1\n[other]\n";
    let file = parse_with(text, &[], true);
    assert_eq!((file.problems.len(), file.options.len()), (0, 1), "{:?}", file.problems);
}

#[test]
fn the_reference_is_a_file_with_every_key() {
    let mut text = reference();
    for (example, instead) in [
        ("openai/gpt", "lab/gpt"),
        ("/etc/ssl/lan.pem", "authority.pem"),
        ("client.pem", "cert.pem"),
        ("client.key", "key.pem"),
    ] {
        assert!(text.contains(example), "{example}");
        text = text.replace(example, instead);
    }
    let file = good(&text, &[KEYS, &[("ALICE_KEY", "alice-s3cret-1")]].concat());
    assert_eq!((file.upstreams.len(), file.models.len(), file.options.len()), (1, 1, 1));
    assert_eq!((file.keys.named().len(), file.keys.secrets().count()), (1, 1));
    let reference = reference();
    for key in upstream_keys::UPSTREAM_KEYS.iter().map(|row| row.key) {
        let is_there =
            ["", "# "].iter().any(|mark| reference.contains(&format!("\n{mark}{key} = ")));
        assert!(is_there, "{key}");
    }
    for key in model_keys::MODEL_KEYS.iter().map(|row| row.key) {
        assert!(reference.contains(&format!("\n{key} = ")), "{key}");
    }
    for key in key_section::KEY_KEYS.iter().map(|row| row.key) {
        let marks = ["", "# "];
        assert!(marks.iter().any(|it| reference.contains(&format!("\n{it}{key} = "))), "{key}");
    }
    for line in reference.lines() {
        assert!(line.len() <= 98 && line.trim_end() == line, "{line}");
    }
}

#[test]
fn any_beginning_of_a_file_is_read_or_told_without_a_secret() {
    let text = reference().replace("You are brief.", "s3cret ${TOKEN} $${");
    let ends = text.char_indices().map(|(at, _)| at);
    for end in ends.step_by(11) {
        for ending in ["", "'", "\"", "]", "}", "[[", " = [", "${"] {
            let file = parse_with(&format!("{}{ending}", &text[..end]), KEYS, false);
            for (line, problem) in &file.problems {
                assert!(*line > 0 && !problem.contains("s3cret"), "{end} {ending}: {problem}");
            }
        }
    }
    let deep = format!("[server]\nhost = {}", "[".repeat(100_000));
    assert!(!parse_with(&deep, &[], false).problems.is_empty());
}

#[test]
fn a_key_in_the_place_of_a_name_is_not_told() {
    let text = "[[upstream]]\nname = \"${LAB_KEY}\"\nbase_url = \"http://h\"\n\
                [[model]]\nname = \"m\"\nuse = [\"lab/x\"]\n";
    bad(text, KEYS, &[(6, "***")]);
}

#[test]
fn every_key_of_a_client_key_has_its_meaning() {
    let text = "[[key]]\nname = \"alice\"\nkey = \"${LAB_KEY}\"\nmodels = [\"qwen*\", \"lab/x\"]\n\
                requests_per_minute = 60\ntokens_per_day = 1_000_000\nmax_parallel = 2\n\
                [[key]]\nname = \"bob\"\nkey = \"bob-s3cret-1\"\n";
    let file = good(text, KEYS);
    let [alice, bob] = file.keys.named() else { panic!("{:?}", file.keys.named()) };
    assert_eq!((alice.name.as_str(), bob.name.as_str()), ("alice", "bob"));
    assert_eq!(alice.models, ["qwen*", "lab/x"]);
    let limits = alice.rates.members().map(|(_, limit)| limit);
    assert_eq!(limits, [Some(60), Some(1_000_000), Some(2)]);
    assert!(!bob.has_limits());
    assert!(file.keys.contains("lab-s3cret-1") && file.keys.contains("bob-s3cret-1"));
    // The values of variables are masked.
    assert!(file.secrets.iter().any(|it| it.expose() == "lab-s3cret-1"));
}

#[test]
fn mistakes_in_client_keys_are_told_with_their_lines_and_without_the_key() {
    let text = "[[key]]\nnmae = \"a\"\nkey = \"s3cret-key-1\"\n\
                [[key]]\nname = \"a b\"\nkey = \"s3cret\"\nrequests_per_minute = 0\n\
                tokens_per_day = \"s3cret\"\nmax_parallel = 1.5\nmodels = []\n\
                [[key]]\nname = \"b\"\n\
                [[key]]\nname = \"c\"\nkey = \"s3cret-key-1\"\nkey_file = \"/nowhere/s3cret\"\n";
    bad(
        text,
        KEYS,
        &[
            (1, "[[key]] needs name"),
            (2, "did you mean name?"),
            (5, "name: expected up to 64 letters, digits, - _ ."),
            (6, "key: expected a key, each 8 to 512 "),
            (7, "requests_per_minute: expected a whole number from 1 to 1000000"),
            (8, "tokens_per_day: expected a whole number, found a string"),
            (9, "max_parallel: expected a whole number, found a number"),
            (10, "models: must not be empty"),
            (11, "[[key]] needs key or key_file"),
            (16, "key_file: no such file"),
            (16, "key_file: key is set, too: remove one of them"),
        ],
    );
    let twice = "[[key]]\nname = \"a\"\nkey = \"s3cret-key-1\"\n\
                 [[key]]\nname = \"a\"\nkey = \"s3cret-key-2\"\n\
                 [[key]]\nname = \"b\"\nkey = \"s3cret-key-1\"\n";
    let expected =
        [(4, "the name is taken by the key in line 1"), (7, "the key is that of another [[key]]")];
    bad(twice, KEYS, &expected);
}
