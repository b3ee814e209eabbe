//! The configuration file: what `--check` shows of it, and the mistakes in it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::program::{Running, program, run};
use crate::support::*;

/// A file in a folder of its own.
fn write(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{name}"));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("proxy.toml");
    fs::write(&path, text).expect("a file");
    path
}

/// The program with this file.
fn with_file(name: &str, text: &str) -> Command {
    let mut command = program();
    command.arg("--config").arg(write(name, text));
    command
}

/// An upstream that records what asks for its list.
fn recording(list: &str) -> Upstream {
    let upstream = Upstream::start();
    upstream.script_lists();
    upstream.script(vec![upstream::json(list)]);
    upstream
}

/// A list of one model.
const ONE: &str = r#"{"data":[{"id":"m"}]}"#;

/// The lines of errors of a start with this file, without what stands before the line numbers.
#[track_caller]
fn mistakes(name: &str, text: &str) -> Vec<String> {
    let path = write(name, text);
    let (code, out, err) = run(with_file(name, text).arg("--port=0"));
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    let prefix = format!("Error: {}:", path.display());
    let strip =
        |line: &str| line.strip_prefix(&prefix).unwrap_or_else(|| panic!("{err}")).to_owned();
    err.lines().map(strip).collect()
}

#[test]
fn a_check_asks_each_upstream_of_the_file_and_shows_its_models() {
    let lab = recording(r#"{"data":[{"id":"qwen3-32b"},{"id":"both"},{"id":"x-base"}]}"#);
    let (other, gone) = (Upstream::start(), Upstream::start());
    other.list(r#"{"data":[{"id":"both"},{"id":"gpt-4o-mini"}]}"#);
    let text = format!(
        r#"
        [server]
        port = 0
        [[upstream]]
        name = "lab"
        base_url = "{}"
        api_key = "${{LAB_KEY}}"
        headers = {{ X-Team = "ml-s3cret" }}
        profile = "vllm"
        exclude = ["*-base"]
        [[upstream]]
        name = "other"
        base_url = "{}"
        tls_verify = false
        [[upstream]]
        name = "fixed"
        base_url = "{}"
        list = ["m1"]
        [[model]]
        name = "llama3.2"
        use = ["lab/qwen3-32b", "other/nowhere"]
        strategy = "sticky"
        hidden = true
        "#,
        lab.base_url(),
        other.base_url(),
        gone.base_url(),
    );
    let rejected = status(400, &[], r#"{"error":{"message":"model is required"}}"#);
    gone.script(vec![rejected]);
    let check = || {
        let mut command = with_file("check", &text);
        run(command.arg("--check").env("LAB_KEY", "lab-s3cret-1").env("MODEL_ALIASES", "fast=both"))
    };
    let (code, out, err) = check();
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let line = |name: &str| {
        let mut lines = out.lines().filter(|line| line.starts_with(&format!("upstream {name} (")));
        lines.next().unwrap_or_else(|| panic!("{name} in {out}")).to_owned()
    };
    let expected = format!("upstream lab ({}): ok, 2 models, family vllm, ", lab.base_url());
    assert!(line("lab").starts_with(&expected) && line("lab").ends_with(" ms"), "{out}");
    assert!(line("other").contains("ok, 2 models, family generic, "), "{out}");
    assert!(line("other").ends_with(" ms; tls_verify is false"), "{out}");
    assert!(line("fixed").contains("ok, 1 model,"), "{out}");
    let models: Vec<_> = out.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(
        models,
        [
            "  llama3.2:latest = lab/qwen3-32b, other/nowhere (not listed) (sticky, hidden)",
            "  fast:latest = both (order)",
            "  qwen3-32b (lab)",
            "  both (lab, other)",
            "  gpt-4o-mini (other)",
            "  m1 (fixed)",
        ]
    );
    assert!(
        out.contains("\nwarning: the certificate of upstream \"other\" is not checked"),
        "{out}"
    );
    assert!(!out.contains("OPENAI_API_BASE_URL=") && !out.contains("s3cret"), "{out}");
    let sent = lab.request();
    assert_eq!(sent.header("authorization"), Some("Bearer lab-s3cret-1"));
    assert_eq!(sent.header("x-team"), Some("ml-s3cret"));
    lab.script(vec![status(401, &[], r#"{"error":"bad key lab-s3cret-1 of ml-s3cret"}"#)]);
    gone.script(vec![status(401, &[], r#"{"error":"no key"}"#)]);
    let (code, out, _) = check();
    assert_eq!(code, Some(1), "one that is wrong is enough: {out}");
    let wrong: Vec<_> = out.lines().filter(|line| line.contains(": error: ")).collect();
    assert_eq!(wrong.len(), 2, "{out}");
    assert!(
        wrong[0].starts_with("upstream lab (") && wrong[1].starts_with("upstream fixed ("),
        "{out}"
    );
    assert!(!out.contains("s3cret"), "{out}");
}

#[test]
fn all_mistakes_are_told_together_each_with_its_line_and_the_nearest_key() {
    let told = mistakes(
        "mistakes",
        "[server]\nprot = 1\nworkers = \"many\"\n\n[[upstream]]\nname = \"lab\"\nbas_url = \"http://h\"\n\
         base_url = \"localhost:1\"\ntimeout = -1\n[[upstream]]\nname = \"lab\"\nbase_url = \"http://h\"\n\
         api_key = \"${NOBODY_SETS_THIS}\"\n[[model]]\nname = \"a\"\nuse = [\"lib/x\"]\n\
         [[model]]\nname = \"A:latest\"\nuse = [\"lab/y\"\n",
    );
    let expected = [
        "2: unknown key \"prot\" in [server]: did you mean port?",
        "3: workers is \"many\": expected a whole number from 1 to 4096",
        "7: unknown key \"bas_url\" in [[upstream]]: did you mean base_url?",
        "8: base_url: must start with http://",
        "9: timeout: expected seconds above 0",
        "10: the name is taken by the upstream in line 5",
        "13: the variable NOBODY_SETS_THIS is not set",
    ];
    for words in expected {
        assert!(told.iter().any(|line| line.starts_with(words)), "{words} in {told:#?}");
    }
    let numbers: Vec<usize> = told
        .iter()
        .map(|line| line.split(':').next().and_then(|it| it.parse().ok()).expect("a line"))
        .collect();
    assert!(numbers.is_sorted() && *numbers.last().expect("one") >= 19, "{told:#?}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let (code, out, err) = run(program().env("PROXY_CONFIG", "nowhere.toml"));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(err, "Error: PROXY_CONFIG is \"nowhere.toml\": no such file\n");
    let mut command = program();
    command.arg("--config").arg(env!("CARGO_TARGET_TMPDIR"));
    let (code, _, err) = run(&mut command);
    assert!(code == Some(1) && err.contains("cannot read the file"), "{err}");
}

#[test]
fn flags_and_environment_are_stronger_than_the_file() {
    let upstream = Upstream::start();
    let text = format!(
        "[server]\nport = 1\nrequest-timeout = 11\nworkers = 12\nretry-max = 2\nhost = \"127.0.0.1\"\n\
         base-url = \"{}\"\nprofile = \"vllm\"\n",
        upstream.base_url()
    );
    let mut command = with_file("precedence", &text);
    command.args(["--check", "--port=0", "--workers=7"]).env("REQUEST_TIMEOUT", "12");
    let (code, out, err) = run(&mut command);
    assert_eq!(code, Some(0), "{out}{err}");
    for line in ["PROXY_WORKERS=7", "REQUEST_TIMEOUT=12", "RETRY_MAX=2", "UPSTREAM_PROFILE=vllm"] {
        assert!(out.lines().any(|it| it == line), "{line} in {out}");
    }
    assert!(out.contains("OLLAMA_HOST=127.0.0.1:0\n"), "{out}");
}

#[test]
fn the_environment_s_upstream_is_ignored_with_a_warning_where_the_file_has_one() {
    let upstream = recording(ONE);
    let text = format!("[[upstream]]\nname = \"lab\"\nbase_url = \"{}\"\n", upstream.base_url());
    let mut command = with_file("ignored", &text);
    command.env("OPENAI_API_KEY", "env-s3cret").env("OPENAI_API_BASE_URL", "nonsense");
    let running = Running::start(&mut command);
    let list = Client::connect(running.addr).get("/v1/models").answer();
    assert_eq!(list.status(), 200, "{}", list.body);
    assert_eq!(upstream.request().header("authorization"), None);
    let log = running.stop();
    let warning = "[WARN] ignored, because the configuration file defines the upstreams: ";
    let line = log.lines().find(|line| line.contains(warning)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.ends_with("OPENAI_API_KEY, OPENAI_API_BASE_URL"), "{line}");
    assert!(log.contains(&format!("upstreams lab {}", upstream.base_url())), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn variables_of_the_dotenv_file_count_and_key_files_are_beside_the_file() {
    let upstream = recording(ONE);
    let text =
        "[[upstream]]\nname = \"lab\"\nbase_url = \"${LAB_URL}\"\napi_key_file = \"lab.key\"\n";
    let path = write("dotenv", text);
    let folder = path.parent().expect("a folder");
    fs::write(folder.join("lab.key"), "file-key-77\n").expect("a file");
    let lines = format!("LAB_URL={}\nPROXY_CONFIG=proxy.toml\n", upstream.base_url());
    fs::write(folder.join(".env"), lines).expect("a file");
    let mut command = program();
    let (code, out, err) = run(command.current_dir(folder).args(["--check", "--port=0"]));
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(upstream.request().header("authorization"), Some("Bearer file-key-77"));
    assert!(!out.contains("file-key-77"), "{out}");
}

#[test]
fn a_health_check_needs_no_key_of_the_file() {
    let upstream = Upstream::start();
    let text = format!(
        "[[upstream]]\nname = \"lab\"\nbase_url = \"{}\"\napi_key = \"${{LAB_KEY}}\"\n",
        upstream.base_url()
    );
    let running = Running::start(with_file("health", &text).env("LAB_KEY", "k"));
    let mut command = with_file("health", &text);
    let (code, out, err) =
        run(command.arg("--healthcheck").env("OLLAMA_HOST", running.addr.to_string()));
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn what_containers_set_without_a_file_reaches_the_upstream() {
    let upstream = Upstream::start();
    let key = write("container", "").with_file_name("key");
    fs::write(&key, " container-key-77 \n").expect("a file");
    let mut command = program();
    command
        .env("OPENAI_BASE_URL", upstream.base_url())
        .env("OPENAI_API_KEY_FILE", &key)
        .env("OPENAI_ORGANIZATION", "org-77")
        .env("OPENAI_PROJECT", "proj-77")
        .env("UPSTREAM_HEADERS", "X-Team: ml\nX-Other: a: b")
        .env("UPSTREAM_EXTRA_BODY", r#"{"user":"me"}"#)
        .env("UPSTREAM_MODELS", "m1,gpt-4o-mini")
        .env("MODEL_ALIASES", "llama3.2=gpt-4o-mini,second=default/m1");
    let running = Running::start(&mut command);
    let mut client = Client::connect(running.addr);
    let tags = client.get("/api/tags").answer();
    for name in ["llama3.2:latest", "second:latest", "m1:latest", "gpt-4o-mini:latest"] {
        assert!(tags.body.contains(name), "{name} in {}", tags.body);
    }
    for (name, id) in [("llama3.2", "gpt-4o-mini"), ("second", "m1")] {
        upstream.script(vec![upstream::answer("Hello")]);
        let body = json!({"model": name, "stream": false, "messages": [{"role": "user", "content": "Hi"}]});
        let answer = client.post("/api/chat", body.to_string()).answer();
        assert_eq!(answer.status(), 200, "{}", answer.body);
        let sent = upstream.request();
        for (header, value) in [
            ("authorization", "Bearer container-key-77"),
            ("openai-organization", "org-77"),
            ("openai-project", "proj-77"),
            ("x-team", "ml"),
            ("x-other", "a: b"),
        ] {
            assert_eq!(sent.header(header), Some(value));
        }
        let sent = sent.json();
        assert_eq!((&sent["model"], &sent["user"]), (&json!(id), &json!("me")));
    }
}

#[test]
fn mistakes_in_the_options_of_containers_show_no_secret() {
    let check = |name: &str, value: &str, words: &str| {
        let mut command = program();
        command.env("OPENAI_BASE_URL", "http://127.0.0.1:9").env(name, value).arg("--check");
        let (code, out, err) = run(&mut command);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{name}");
        assert!(err.starts_with(&format!("Error: {name}")) && err.contains(words), "{err}");
        assert!(!err.contains("s3cret"), "{err}");
    };
    check("OPENAI_API_KEY_FILE", "/nowhere/s3cret", "no such file");
    check("OPENAI_ORGANIZATION", "s3crét", "visible ASCII");
    check("UPSTREAM_HEADERS", "s3cret", "Name: value");
    check("UPSTREAM_HEADERS", "Host: s3cret", "set by the program");
    check("UPSTREAM_CA_FILE", "/nowhere/s3cret", "no such file");
    check("UPSTREAM_CLIENT_CERT_FILE", "/nowhere/s3cret", "no such file");
    check("UPSTREAM_TLS_VERIFY", "maybe", "expected true or false");
    check("UPSTREAM_EXTRA_BODY", "[\"s3cret\"]", "expected a JSON object");
    check("MODEL_ALIASES", "a", "expected NAME=MODEL");
    check("UPSTREAM_MODELS", ",", "expected the ids of models");
    let mut command = program();
    command.env("OPENAI_API_KEY", "s3cret-77").env("OPENAI_API_KEY_FILE", "/nowhere");
    let (code, _, err) = run(&mut command);
    assert_eq!(code, Some(1));
    assert!(err.contains("OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set"), "{err}");
}
