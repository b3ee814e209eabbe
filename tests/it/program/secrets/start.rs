//! What `--check`, a start that fails, and a panic say.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::stage::*;
use crate::support::program::{Running, program, run};
use crate::support::*;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::observe::logging;
use ollama_openai_proxy::observe::redact::Redactor;
use ollama_openai_proxy::upstream::RetryEnv;

#[test]
fn a_check_and_a_start_that_fails_give_no_key_away() {
    let upstream = Upstream::start();
    let check = |more: &[&str]| {
        let (mut command, _) = command("check", &upstream.base_url());
        let (_, out, err) = run(command.arg("--check").args(more));
        absent(&KEYS, "a check", &format!("{out}{err}"));
        out
    };
    upstream.list(&format!(r#"{{"data":[{{"id":"m"}},{{"id":"{OWN_KEY}"}}]}}"#));
    let good = check(&["--log-bodies=1"]);
    assert!(good.contains("upstream: ok") && good.contains("\nPROXY_API_KEYS=***\n"), "{good}");
    assert!(good.contains("\nwarning: LOG_BODIES is on"), "{good}");
    upstream.script_lists();
    let text = format!(r#"{{"error":"{UPSTREAM_KEY} or {OWN_KEY} or {FILE_KEY}"}}"#);
    upstream.script(vec![status(401, &[], &text)]);
    assert!(check(&[]).contains("upstream: error: *** or *** or ***"));
    upstream.script(vec![status(401, &[], &text)]);
    let object = check(&["--json"]);
    assert!(object.contains(r#""error":"*** or *** or ***""#), "{object}");
    let in_wrong_places = [
        &[format!("--port={OWN_KEY}")][..],
        &[format!("--host={UPSTREAM_KEY}@{OWN_KEY}")],
        &[format!("--log-level={OWN_KEY}"), WRONG_KEY.to_owned(), format!("-{WRONG_KEY}")],
        &[format!("--proxy-api-keys={OWN_KEY} {WRONG_KEY}")],
        &[format!("--base-url={UPSTREAM_KEY}:{OWN_KEY}")],
        &[format!("--base-url=http://me:{WRONG_KEY}@h/v1?{WRONG_KEY}#{WRONG_KEY}")],
        &[format!("--proxy-api-keys-file=/nowhere/{WRONG_KEY}")],
    ];
    for wrong in in_wrong_places {
        let (mut command, state) = command("wrong", &upstream.base_url());
        // The key file is not read yet when options are checked.
        let (code, out, err) = run(command.args(wrong));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{wrong:?}");
        absent(&KEYS, "an error at the start", &err);
        assert!(!state.exists());
    }
    // Lines of the file of keys with mistakes in what follows the key.
    let in_wrong_lines = [
        format!("team:{FILE_KEY} max_parallel=0"),
        format!("team:{FILE_KEY} {OWN_KEY}"),
        format!("team:{FILE_KEY} {OWN_KEY}=1"),
        format!("team:{FILE_KEY} tokens_per_day={OWN_KEY}"),
        format!("{FILE_KEY} models=m"),
        format!("te am:{FILE_KEY}"),
        format!("team:{FILE_KEY} models=a\nother:{FILE_KEY}"),
        format!("team:{FILE_KEY} models=a\nteam:{WRONG_KEY} models=b"),
        format!("team:{OWN_KEY} models=a"),
    ];
    for lines in in_wrong_lines {
        let (mut command, state) = command("wrong-lines", &upstream.base_url());
        fs::write(state.with_file_name("keys"), &lines).expect("a file");
        let (code, out, err) = run(&mut command);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        absent(&KEYS, "an error in the file of keys", &err);
    }
    let in_wrong_sections = [
        format!(
            "[[key]]\nname = \"{OWN_KEY} \"\nkey = \"{FILE_KEY}\"\nmax_parallel = \"{OWN_KEY}\"\n"
        ),
        format!(
            "[[key]]\nname = \"a\"\nkey = \"{FILE_KEY}\"\n{OWN_KEY} = 1\nmodels = [\"{WRONG_KEY} x\"]\n"
        ),
        format!(
            "[[key]]\nname = \"a\"\nkey = \"{FILE_KEY} x\"\nkey_file = \"/nowhere/{WRONG_KEY}\"\n"
        ),
        format!("[[key]]\nname = \"a\"\nkey = \"{OWN_KEY}\"\nmodels = [\"m\"]\n"),
    ];
    for text in in_wrong_sections {
        let (mut command, state) = command("wrong-sections", &upstream.base_url());
        let file = state.with_file_name("proxy.toml");
        fs::write(&file, &text).expect("a file");
        let (code, out, err) = run(command.env("PROXY_CONFIG", file));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        absent(&KEYS, "an error in a section [[key]]", &err);
    }
    let (mut command, state) = command("damaged", &upstream.base_url());
    for text in [
        format!(r#"{{"version":1,"models":["{PROMPT}"]}}"#),
        format!(r#"{{"version":1,"models":[{{"name":"{PROMPT}","from":1}}]}}"#),
        format!("{PROMPT} {OWN_KEY}"),
    ] {
        fs::write(&state, text).expect("a file");
        let (code, out, err) = run(&mut command);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(err.contains(": repair it, or move it away"), "{err}");
        absent(&[PROMPT, OWN_KEY], "an error at the start", &err);
    }
}

/// A configuration file beside the key of an upstream.
fn config_file(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("secrets-file-{name}"));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("key"), format!("{FILE_KEY}\n")).expect("a file");
    let path = folder.join("proxy.toml");
    fs::write(&path, text).expect("a file");
    path
}

#[test]
fn no_mistake_in_a_configuration_file_gives_a_key_away() {
    let upstream =
        |line: &str| format!("[[upstream]]\nname = \"lab\"\nbase_url = \"http://h\"\n{line}\n");
    for text in [
        upstream(&format!("api_key = \"{WRONG_KEY} two\"")),
        upstream(&format!("api_key = {WRONG_KEY}")),
        upstream(&format!("api_key = \"{WRONG_KEY}")),
        upstream(&format!("api_key = \"${{{WRONG_KEY}}}\"")),
        upstream(&format!("api_key = \"{WRONG_KEY}\"\napi_key = \"{WRONG_KEY}\"")),
        upstream(&format!("\"{WRONG_KEY} x\" = 1")),
        upstream(&format!("api_key = \"${{OWN_KEY}} x\"\nmax_parallel = \"{WRONG_KEY}\"")),
        upstream(&format!("api_key_file = \"/nowhere/{WRONG_KEY}\"")),
        upstream("api_key_file = \"key\"\napi_key = \"${OWN_KEY}\""),
        upstream(&format!("headers = {{ X-Key = \"{WRONG_KEY}\\n\" }}")),
        upstream(&format!("headers = {{ \"X {WRONG_KEY}\" = \"${{OWN_KEY}}\" }}")),
        upstream(&format!("headers = {{ X-Key = [\"{WRONG_KEY}\"], Host = \"${{OWN_KEY}}\" }}")),
        upstream(&format!("proxy = \"ftp://me:{WRONG_KEY}@p\"")),
        upstream(&format!("profile = \"{WRONG_KEY}\"\ntimeout = \"${{OWN_KEY}}\"")),
        upstream(&format!("ca_file = \"{WRONG_KEY}\"\nextra_body = \"${{OWN_KEY}}\"")),
        upstream("").replace("http://h", &format!("http://me:{WRONG_KEY}@h:x/${{OWN_KEY}}")),
        upstream("").replace("http://h", &format!("{WRONG_KEY}://${{OWN_KEY}}")),
        upstream("").replace("\"lab\"", "\"${OWN_KEY} x\""),
        format!(
            "[server]\nport = \"${{OWN_KEY}}\"\nworkers = \"${{OWN_KEY}}\"\nproxy-api-keys = [\"{WRONG_KEY} x\"]"
        ),
        format!(
            "[server]\nupstream-headers = \"{WRONG_KEY}\"\nupstream-extra-body = \"${{OWN_KEY}}\""
        ),
        upstream(
            "[[model]]\nname = \"a\"\nuse = [\"${OWN_KEY}/x\", \"${OWN_KEY}\"]\nstrategy = \"${OWN_KEY}\"",
        ),
    ] {
        let mut command = program();
        command.env("OWN_KEY", OWN_KEY).arg("--check").arg("--config");
        let (code, out, err) = run(command.arg(config_file("mistakes", &text)));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{text}");
        assert!(err.contains("proxy.toml:"), "{text}: {err}");
        absent(&KEYS, &text, &err);
    }
}

#[test]
fn a_running_program_gives_no_secret_of_its_configuration_file_away() {
    let (first, second) = (Upstream::start(), Upstream::start());
    let text = format!(
        "[[upstream]]\nname = \"first\"\nbase_url = \"{}?key=${{QUERY_KEY}}\"\napi_key_file = \"key\"\n\
         headers = {{ X-Key = \"{WRONG_KEY}\" }}\n\
         [[upstream]]\nname = \"second\"\nbase_url = \"{}\"\napi_key = \"${{OWN_KEY}}\"\n\
         extra_body = {{ secret = \"${{QUERY_KEY}}\" }}\n",
        first.base_url(),
        second.base_url(),
    );
    let path = config_file("running", &text);
    let mut command = program();
    command.arg("--config").arg(path).env("OWN_KEY", OWN_KEY).env("QUERY_KEY", UPSTREAM_KEY);
    command.env("LOG_LEVEL", "trace").env("LOG_BODIES", "1").env("RETRY_MAX", "0");
    let running = Running::start(&mut command);
    let mut answers = String::new();
    let told =
        format!(r#"{{"error":{{"message":"{OWN_KEY} {FILE_KEY} {WRONG_KEY} {UPSTREAM_KEY}"}}}}"#);
    for code in [400, 401, 429, 500] {
        for upstream in [&first, &second] {
            upstream.script(vec![status(code, &[], &told)]);
        }
        for (name, route) in [("first/m", "/api/chat"), ("second/m", "/v1/chat/completions")] {
            let body = json!({"model": name, "messages": [{"role": "user", "content": "Hi"}]});
            let answer = Client::connect(running.addr).post(route, body.to_string()).answer();
            answers += &format!("{:?} {}\n", answer.head, answer.body);
        }
    }
    for route in ["/openai/health", "/metrics", "/api/tags"] {
        answers += &Client::connect(running.addr).get(route).answer().body;
    }
    absent(&KEYS, "an answer", &answers);
    absent(&KEYS, "the log", &running.stop());
}

/// Set in the process that is to panic.
const CHILD: &str = "SECRETS_TEST_CHILD";

/// A panic of the core library, whose message quotes the text.
fn panic_as_core_does() -> f64 {
    let text = format!("é{PROMPT}{OWN_KEY}{ANSWER}");
    let cut = &text[std::hint::black_box(1)..];
    cut.len() as f64
}

#[test]
fn a_panic_tells_its_place_and_nothing_of_what_it_quotes() {
    if std::env::var_os(CHILD).is_some() {
        return panic_in_a_worker();
    }
    // The module path without the crate.
    let (_, here) = module_path!().split_once("::").expect("a path");
    let name = format!("{here}::a_panic_tells_its_place_and_nothing_of_what_it_quotes");
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new(own);
    let (code, out, log) = run(command.args(["--exact", &name, "--nocapture"]).env(CHILD, "1"));
    assert_eq!(code, Some(0), "{out}{log}");
    assert!(log.contains(concat!("panicked at ", file!(), ":")), "{log}");
    assert!(log.contains("error=internal: a handler panicked"), "{log}");
    let all = format!("{out}{log}");
    absent(&[PROMPT, ANSWER, OWN_KEY, proxy::KEY], "what a panic says", &all);
    // The panic message contains the marks.
    let caught = std::panic::catch_unwind(panic_as_core_does).expect_err("a panic");
    let told = caught.downcast_ref::<String>().expect("a formatted message");
    assert!(told.contains(PROMPT) && told.contains(OWN_KEY), "{told}");
}

/// Runs in the child process: the logger, and a server with a worker that panics.
fn panic_in_a_worker() {
    logging::init(log::LevelFilter::Trace, Redactor::default());
    let upstream = Upstream::start();
    upstream.script(vec![status(500, &[], "{}")]);
    let jitter = Box::new(panic_as_core_does);
    let pacing = RetryEnv { sleep: Box::new(|_| true), jitter };
    let (server, _stop) = proxy::start(&upstream.base_url(), |_: &mut Config| {}, pacing);
    let mut client = Client::connect(server.local_addr());
    assert_eq!(client.post("/api/chat", chat(PROMPT)).answer().status(), 500);
    assert!(server.drain());
    logging::flush();
}
