//! The command line: options, `--check`, the `.env` file, and errors at the start.

use crate::support::program::{program, run};
use crate::support::*;

#[test]
fn help_and_version_need_no_configuration() {
    for flag in ["--help", "-h"] {
        let (code, out, err) = run(program().arg(flag));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.contains("--base-url") && out.contains("OPENAI_API_KEY"), "{out}");
    }
    let (code, out, _) = run(program().arg("--version"));
    assert_eq!(
        (code, out),
        (Some(0), format!("ollama-openai-proxy {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn a_missing_key_is_one_sentence_that_says_what_to_do() {
    let (code, out, err) = run(&mut program());
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.starts_with("Error: ") && err.contains("OPENAI_API_KEY"), "{err}");
    assert_eq!(err.lines().count(), 1);
}

#[test]
fn bad_values_are_reported_together() {
    let mut command = program();
    command.args(["--port", "70000", "--base-url", "ftp://x"]).env("REQUEST_TIMEOUT", "0");
    let (code, _, err) = run(command.env("LOG_LEVEL", "loud"));
    assert_eq!((code, err.lines().count()), (Some(1), 4), "{err}");
    for name in ["--port", "--base-url", "REQUEST_TIMEOUT", "LOG_LEVEL"] {
        assert!(
            err.lines().any(|line| line.starts_with("Error: ") && line.contains(name)),
            "{err}"
        );
    }
}

#[test]
fn a_check_shows_the_configuration_and_asks_the_upstream() {
    let upstream = Upstream::start();
    let check = || {
        let mut command = program();
        command.args(["--check", "--port=0"]).env("OPENAI_API_KEY", KEY);
        run(command.env("OPENAI_BASE_URL", upstream.base_url()))
    };
    let (code, out, _) = check();
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(&upstream.base_url()) && out.contains("tagged:8b"), "{out}");
    assert!(!out.contains(KEY), "{out}");
    assert!(out.contains("UPSTREAM_PROFILE=auto") && out.contains("family generic"), "{out}");
    let mut command = program();
    command
        .args(["--check", "--port=0", "--profile=vLLM"])
        .env("OPENAI_BASE_URL", upstream.base_url());
    let (_, out, _) = run(&mut command);
    assert!(out.contains("UPSTREAM_PROFILE=vllm") && out.contains("family vllm"), "{out}");
    upstream.script_lists();
    upstream.script(vec![status(401, &[], &format!("{{\"error\":\"bad key {KEY}\"}}"))]);
    let (code, out, _) = check();
    assert_eq!(code, Some(1));
    assert!(out.contains("bad key ***") && !out.contains(KEY), "{out}");
}

/// The exit status and the report of a check with this base URL and these arguments.
fn check_with(base_url: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command.args(["--check", "--port", "0"]).args(more);
    let (code, out, _) = run(command.env("OPENAI_BASE_URL", base_url));
    (code, out)
}

#[test]
fn a_check_tells_a_server_without_a_list_from_something_else() {
    let upstream = Upstream::start();
    upstream.script_lists();
    let check = |list: Step, chat: Option<Step>, code: i32, told: &str| {
        upstream.script(vec![list]);
        if let Some(chat) = chat {
            upstream.script(vec![chat]);
        }
        let (found, out) = check_with(&upstream.base_url(), &[]);
        assert_eq!(found, Some(code), "{out}");
        let line = out.lines().find(|line| line.starts_with("upstream: ")).expect("told");
        assert!(line.contains(told), "{line}");
    };
    let missing = || status(404, &[], "<html><h1>404 Not Found</h1></html>");
    let advice = "check host, port and path of the base URL";
    let rejected = status(400, &[], r#"{"error":{"message":"model is required"}}"#);
    check(missing(), Some(rejected), 0, "ok, without a list of models");
    check(missing(), Some(missing()), 1, advice);
    check(missing(), Some(status(405, &[], "no")), 1, advice);
    check(missing(), Some(upstream::json("<html>hello</html>")), 1, advice);
    check(upstream::json("<html>It works!</html>"), None, 1, advice);
}

#[test]
fn a_check_tells_whether_the_port_is_taken_and_by_whom() {
    let (upstream, proxy) = pair();
    let check = |port: u16| {
        let (code, out) = check_with(&upstream.base_url(), &["--port", &port.to_string()]);
        let line = out.lines().find(|line| line.starts_with("listen: ")).expect("told").to_owned();
        (code, line)
    };
    assert_eq!(check(0), (Some(0), "listen: ok".to_owned()));
    let ours = "listen: ok, in use by a running ollama-openai-proxy".to_owned();
    assert_eq!(check(proxy.addr().port()), (Some(0), ours));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    // It does not answer: it closes each connection.
    let port = taken.local_addr().expect("bound").port();
    std::thread::spawn(move || taken.incoming().for_each(drop));
    let (code, line) = check(port);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("bind: address already in use"), "{line}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_check_tries_to_write_beside_the_state_file() {
    let upstream = Upstream::start();
    let (code, out) = check_with(&upstream.base_url(), &["--state", "/proc/none/state.json"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(
        out.contains("\nstate: error: state file /proc/none/state.json cannot be written: "),
        "{out}"
    );
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("checked/state.json");
    let (code, out) = check_with(&upstream.base_url(), &["--state", path.to_str().expect("UTF-8")]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("\nstate: ok, 0 models"), "{out}");
    assert!(!path.parent().expect("a folder").exists(), "nothing is created");
}

#[test]
fn a_file_in_the_working_directory_is_read_and_the_environment_wins() {
    let upstream = Upstream::start();
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("with-dotenv");
    std::fs::create_dir_all(&folder).expect("a folder");
    let lines =
        format!("OPENAI_BASE_URL={}\nREQUEST_TIMEOUT=11\nPROXY_WORKERS='7'\n", upstream.base_url());
    std::fs::write(folder.join(".env"), lines).expect("a file");
    let mut command = program();
    command.current_dir(&folder).args(["--check", "--port=0"]).env("REQUEST_TIMEOUT", "12");
    let (code, out, err) = run(&mut command);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("REQUEST_TIMEOUT=12") && out.contains("PROXY_WORKERS=7"), "{out}");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let upstream = Upstream::start();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    for host in ["127.0.0.1", ""] {
        let addr = format!("{host}:{port}");
        let (code, _, err) =
            run(program().env("OLLAMA_HOST", &addr).env("OPENAI_BASE_URL", upstream.base_url()));
        assert_eq!(code, Some(1));
        let told = format!("Error: listen tcp {addr}: bind: address already in use");
        assert!(err.lines().any(|line| line == told), "{err}");
    }
}

#[test]
fn a_damaged_state_file_is_an_error_at_the_start_and_stays_as_it_is() {
    let upstream = Upstream::start();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("damaged-state.json");
    std::fs::write(&path, "{\"version\":1,").expect("a file");
    for flag in [None, Some("--check")] {
        let mut command = program();
        command.args(flag).arg("--state").arg(&path);
        let (code, out, err) = run(command.env("OPENAI_BASE_URL", upstream.base_url()));
        assert_eq!(code, Some(1), "{out}{err}");
        let told = format!("state file {} is not valid JSON (line 1", path.display());
        assert!(format!("{out}{err}").contains(&told), "{out}{err}");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "{\"version\":1,");
}
