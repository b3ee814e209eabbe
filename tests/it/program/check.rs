//! What `--check` prints: a table for people, and one object for scripts.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::program::{program, run};
use crate::support::*;

/// A check with these arguments: exit status, output and errors.
fn check(base_url: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = program();
    command.args(["--check", "--port=0"]).args(more).env("OPENAI_API_KEY", KEY);
    run(command.env("OPENAI_BASE_URL", base_url))
}

/// The object of a check with these arguments, which is one line.
fn object(base_url: &str, more: &[&str], code: i32) -> Value {
    let (found, out, err) = check(base_url, &[more, &["--json"]].concat());
    assert_eq!((found, err.as_str()), (Some(code), ""), "{out}");
    assert_eq!(out.lines().count(), 1, "{out}");
    assert!(!out.contains(KEY), "{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// The lines of the table.
fn table(out: &str) -> Vec<&str> {
    let (table, _) = out.split_once("\n\n").expect("details behind the table");
    table.lines().collect()
}

/// A configuration file with two upstreams, of which the second has this address.
fn two_upstreams(name: &str, first: &str, second: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let text = format!(
        "[[upstream]]\nname = \"lab\"\nbase_url = \"{first}\"\napi_key = \"lab-s3cret-1\"\n\
         [[upstream]]\nname = \"{}\"\nbase_url = \"{second}\"\n\
         [[model]]\nname = \"fast\"\nuse = [\"lab/tagged:8b\", \"lab/nowhere\"]\nhidden = true\n",
        "n".repeat(60)
    );
    fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_check_begins_with_a_table_of_what_was_checked() {
    let upstream = Upstream::start();
    let (code, out, err) = check(&upstream.base_url(), &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let lines = table(&out);
    assert_eq!(lines.len(), 4, "{out}");
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let words: Vec<_> = lines.iter().filter_map(|line| first(line)).collect();
    assert_eq!(words, ["CHECK", "listen", "state", "upstream"]);
    let column = lines[0].find("RESULT").expect("a column");
    assert!(lines[1..].iter().all(|line| line[column..].starts_with("ok ")), "{out}");
    assert!(
        lines[1].ends_with("  127.0.0.1:0") && lines[3].contains(&upstream.base_url()),
        "{out}"
    );
    assert!(lines[3].contains(" ms  http"), "{out}");
    assert!(out.contains("\n\nNothing is wrong.\n"), "{out}");
    for details in
        ["\nlisten: ok\n", "\nstate: ok, 0 models\n", "\nupstream: ok, ", "\nLOG_LEVEL=INFO\n"]
    {
        assert!(out.contains(details), "{details:?} in {out}");
    }
}

#[test]
fn a_check_that_only_warns_says_so() {
    let upstream = Upstream::start();
    let (code, out, _) = check(&upstream.base_url(), &["--log-bodies=true"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("\n\nNo check failed; warnings below: 1.\n\nwarning: LOG_BODIES"),
        "{out}"
    );
    let found = object(&upstream.base_url(), &["--log-bodies=true"], 0);
    let warnings = found["warnings"].as_array().expect("an array");
    assert!(
        warnings.len() == 1 && warnings[0].as_str().is_some_and(|it| it.contains("LOG_BODIES"))
    );
}

#[test]
fn the_table_fits_a_terminal_and_tells_what_failed_without_keys() {
    let upstream = Upstream::start();
    let long = "/long".repeat(40);
    let path =
        two_upstreams("table.toml", &upstream.base_url(), &format!("http://127.0.0.1:9{long}"));
    upstream.script_lists();
    // The cell ends inside of the key.
    let text = format!("{}lab-s3cret-1\nsecond line", "x".repeat(18));
    upstream.script(vec![status(401, &[], &json!({"error": text}).to_string())]);
    let (code, out, _) = check("", &["--config", &path]);
    assert_eq!(code, Some(1), "{out}");
    let lines = table(&out);
    assert_eq!(lines.len(), 5, "{out}");
    for line in &lines {
        assert!(line.chars().count() <= 80 && line.trim_end() == *line, "{line:?}");
    }
    assert!(lines[3].starts_with("upstream lab ") && lines[3].contains("  FAILED  "), "{out}");
    assert!(lines[3].contains(" ms  xxx") && lines[4].contains("  FAILED  "), "{out}");
    assert!(lines[4].starts_with("upstream nnnnnnnnnnnn...  "), "{out}");
    assert!(out.contains("\n\n2 of 4 checks failed.\n"), "{out}");
    // What did not fit stands behind the table.
    assert!(out.contains(&long) && out.contains(&"n".repeat(60)), "{out}");
    assert!(!out.contains("lab-s3"), "{out}");
}

#[test]
fn a_script_reads_what_was_found_from_one_object() {
    let upstream = Upstream::start();
    let found = object(&upstream.base_url(), &["--workers=7"], 0);
    assert_eq!(found["ok"], true);
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        found["listen"],
        json!({"host": "127.0.0.1", "port": 0, "in_use_by_proxy": false, "status": "ok", "error": null})
    );
    assert_eq!((&found["state"]["status"], &found["state"]["models"]), (&json!("ok"), &json!(0)));
    let settings = found["settings"].as_object().expect("an object");
    assert_eq!(
        (&settings["PROXY_WORKERS"], &settings["OPENAI_API_KEY"]),
        (&json!("7"), &json!("***"))
    );
    assert_eq!(settings.len(), ollama_openai_proxy::config::OPTIONS.len());
    assert_eq!((&found["warnings"], &found["models"]), (&json!([]), &json!([])));
    let [server] = &found["upstreams"].as_array().expect("an array")[..] else {
        panic!("{found}");
    };
    assert_eq!(
        (&server["name"], &server["base_url"]),
        (&json!("default"), &json!(upstream.base_url()))
    );
    let expected = (&json!(true), &json!("ok"), &Value::Null, &Value::Null);
    let told = (&server["reachable"], &server["status"], &server["http_status"], &server["error"]);
    assert_eq!(told, expected, "{server}");
    let ids = server["model_ids"].as_array().expect("a list");
    assert!(server["models"] == ids.len() && ids.contains(&json!("tagged:8b")), "{server}");
    assert!(server["family"] == "generic" && server["milliseconds"].is_u64(), "{server}");
}

#[test]
fn a_script_learns_which_upstream_failed_and_how() {
    let upstream = Upstream::start();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = gone.local_addr().expect("bound").port();
    // It closes each connection without an answer.
    std::thread::spawn(move || gone.incoming().for_each(drop));
    let second = format!("http://me:pass-s3cret@127.0.0.1:{port}/v1");
    let path = two_upstreams("json.toml", &upstream.base_url(), &second);
    let targets = &object("", &["--config", &path], 1)["models"][0]["targets"];
    assert_eq!((&targets[0]["listed"], &targets[1]["listed"]), (&json!(true), &json!(false)));
    upstream.script_lists();
    let text = r#"no "lab-s3cret-1" here"#;
    upstream.script(vec![status(401, &[], &json!({"error": text}).to_string())]);
    let found = object("", &["--config", &path], 1);
    assert_eq!(found["ok"], false);
    let [lab, other] = &found["upstreams"].as_array().expect("an array")[..] else {
        panic!("{found}");
    };
    let told =
        |it: &Value| (it["reachable"].clone(), it["status"].clone(), it["http_status"].clone());
    assert_eq!(told(lab), (json!(true), json!("error"), json!(401)));
    assert_eq!(lab["error"], "no \"***\" here");
    assert_eq!((&lab["models"], &lab["model_ids"]), (&Value::Null, &Value::Null));
    assert_eq!(told(other), (json!(false), json!("error"), Value::Null));
    assert_eq!(other["base_url"], format!("http://127.0.0.1:{port}/v1"));
    assert!(other["error"].as_str().is_some_and(|why| !why.is_empty()), "{other}");
    let model = &found["models"][0];
    assert_eq!((&model["name"], &model["hidden"]), (&json!("fast:latest"), &json!(true)));
    assert_eq!(model["targets"][1], json!({"upstream": "lab", "id": "nowhere", "listed": null}));
    assert!(found["settings"].get("OPENAI_API_KEY").is_none(), "{found}");
    assert!(!found.to_string().contains("s3cret"), "{found}");
}

#[test]
fn json_without_a_check_is_a_wrong_command_line() {
    for (args, told) in [
        (&["--json"][..], "Error: --json needs --check (see --help)\n"),
        (&["--healthcheck", "--json"], "Error: --json needs --check (see --help)\n"),
        (&["--check", "--json=1"], "Error: --json takes no value\n"),
    ] {
        let (code, out, err) = run(program().args(args).env("OPENAI_API_KEY", KEY));
        assert_eq!((code, out.as_str(), err.as_str()), (Some(1), "", told));
    }
    let (code, out, err) = run(program().args(["--check", "--json", "--port=x"]));
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.starts_with("Error: --port"), "{err}");
}
