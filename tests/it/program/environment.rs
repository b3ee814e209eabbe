//! Ollama's environment variables (Ollama `envconfig/config.go`, v0.32.15) and their effect on this
//! program.
//!
//! A variable is honoured, which shows in the configuration; or it means nothing to a program
//! without models and graphics cards, and any value of it is accepted without a word.

use crate::support::*;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use ollama_openai_proxy::config::{self, Config};

/// Honoured: the variable, a value, and the resulting line of the description.
const HONOURED: &[(&str, &str, &str)] = &[
    ("OLLAMA_HOST", "http://1.2.3.4", "OLLAMA_HOST=1.2.3.4:80"),
    ("OLLAMA_ORIGINS", "http://a.test,*.b.test", "OLLAMA_ORIGINS=http://a.test,*.b.test"),
    ("OLLAMA_KEEP_ALIVE", "90", "OLLAMA_KEEP_ALIVE=90s"),
    ("OLLAMA_MAX_QUEUE", "7", "OLLAMA_MAX_QUEUE=7"),
    ("OLLAMA_CONTEXT_LENGTH", "4096", "OLLAMA_CONTEXT_LENGTH=4096"),
    ("OLLAMA_DEBUG", "2", "LOG_LEVEL=TRACE"),
];

/// Invalid values, which Ollama replaces by its default with a warning.
const FORGIVEN: &[(&str, &str)] = &[
    ("OLLAMA_HOST", "127.0.0.1:99999"),
    ("OLLAMA_KEEP_ALIVE", "soon"),
    ("OLLAMA_MAX_QUEUE", "-1"),
    ("OLLAMA_MAX_QUEUE", "many"),
    ("OLLAMA_CONTEXT_LENGTH", "4k"),
];

/// Accepted and ignored: the variable and why.
const IGNORED: &[(&str, &str)] = &[
    ("OLLAMA_NUM_PARALLEL", "the upstream decides how much it does at once"),
    ("OLLAMA_MAX_LOADED_MODELS", "the upstream decides what it keeps loaded"),
    (
        "OLLAMA_LOAD_TIMEOUT",
        "nothing is loaded here; REQUEST_TIMEOUT bounds the upstream's silence",
    ),
    ("OLLAMA_DEBUG_LOG_REQUESTS", "no prompt is ever written anywhere"),
    ("OLLAMA_MODELS", "there are no model files"),
    ("OLLAMA_NO_CLOUD", "the cloud is always off"),
    ("OLLAMA_REMOTES", "there are no remote stubs: every model is the upstream's"),
    ("OLLAMA_AUTH", "for clients: what they sign is not looked at"),
    ("OLLAMA_API_KEY", "for clients; Ollama's server does not read it either"),
    ("OLLAMA_NOPRUNE", "no models"),
    ("OLLAMA_SCHED_SPREAD", "no graphics cards"),
    ("OLLAMA_FLASH_ATTENTION", "no graphics cards"),
    ("OLLAMA_KV_CACHE_TYPE", "no graphics cards"),
    ("OLLAMA_GPU_OVERHEAD", "no graphics cards"),
    ("OLLAMA_LLM_LIBRARY", "no graphics cards"),
    ("OLLAMA_GO_TEMPLATE", "the upstream applies the template"),
    ("OLLAMA_VULKAN", "no graphics cards"),
    ("OLLAMA_IGPU_ENABLE", "no graphics cards"),
    ("OLLAMA_MAX_TRANSFER_STREAMS", "nothing is downloaded"),
    ("OLLAMA_NOHISTORY", "for the command line"),
    ("OLLAMA_EDITOR", "for the command line"),
];

/// The configuration with one variable set.
fn with(variable: &str, value: &str) -> Config {
    let env = |name: &str| match name {
        "OPENAI_BASE_URL" => Some("http://upstream.test".to_owned()),
        _ => (name == variable).then(|| value.to_owned()),
    };
    match config::from_sources(Vec::<OsString>::new(), &env, &[]) {
        Ok((config::Command::Run, config)) => config,
        other => panic!("{variable}={value}: {other:?}"),
    }
}

#[test]
fn what_has_a_meaning_is_honoured_in_any_quotes() {
    for (variable, value, line) in HONOURED {
        for written in [value.to_string(), format!(" \"{value}\" "), format!("'{value}'")] {
            let config = with(variable, &written);
            assert!(config.describe().lines().any(|shown| shown == *line), "{variable}={written}");
            assert_eq!(config.warnings, [""; 0], "{variable}={written}");
            assert_ne!(config.describe(), with(variable, "").describe(), "{variable}");
        }
    }
}

/// A line of the description.
fn line(config: &Config, variable: &str) -> String {
    let shown = config.describe();
    let mut lines = shown.lines().filter(|line| line.starts_with(&format!("{variable}=")));
    lines.next().expect(variable).to_owned()
}

#[test]
fn the_defaults_are_ollama_s() {
    let config = with("", "");
    for expected in [
        "OLLAMA_HOST=127.0.0.1:11434",
        "OLLAMA_ORIGINS=",
        "OLLAMA_KEEP_ALIVE=300s",
        "OLLAMA_MAX_QUEUE=512",
        "OLLAMA_CONTEXT_LENGTH=0",
        "OLLAMA_DEBUG=false",
        "LOG_LEVEL=INFO",
    ] {
        let variable = expected.split('=').next().expect("a name");
        assert_eq!(line(&config, variable), expected);
    }
}

#[test]
fn every_word_for_true_and_false_is_known() {
    let level = |word: &str| line(&with("OLLAMA_DEBUG", word), "LOG_LEVEL");
    for word in ["1", "t", "T", "true", "True", "TRUE", "yes", "on", "x"] {
        assert_eq!(level(word), "LOG_LEVEL=DEBUG", "{word}");
    }
    for word in ["0", "f", "F", "false", "False", "FALSE", "", " ", "\"\""] {
        assert_eq!(level(word), "LOG_LEVEL=INFO", "{word}");
    }
}

#[test]
fn a_model_stays_as_long_as_the_environment_says() {
    let upstream = Upstream::start();
    let loaded = |value: &str, body: Value| {
        let keep_alive = with("OLLAMA_KEEP_ALIVE", value).keep_alive;
        let proxy = Proxy::with(&upstream, |config| config.keep_alive = keep_alive);
        let answer = proxy.post("/api/generate", &body);
        assert_eq!(answer.status(), 200, "{}", answer.body);
        let list = proxy.fetch("/api/ps").json();
        let expires = list["models"][0]["expires_at"].as_str().map(str::to_owned);
        // "Forever" is some 292 years.
        expires.map(|time| if time.starts_with("23") { "for ever" } else { "a while" })
    };
    let plain = || json!({"model": "m"});
    for (value, expected) in [
        ("", Some("a while")),
        ("90", Some("a while")),
        ("1h30m", Some("a while")),
        ("-1", Some("for ever")),
        ("-1m", Some("for ever")),
        ("0", None),
        ("0s", None),
        ("soon", Some("a while")),
    ] {
        assert_eq!(loaded(value, plain()), expected, "{value:?}");
        let asked = json!({"model": "m", "keep_alive": 60});
        assert_eq!(loaded(value, asked), Some("a while"), "a request is stronger than {value:?}");
    }
}

#[test]
fn an_unknown_window_is_what_the_environment_says() {
    let upstream = Upstream::start();
    for (value, unknown) in [("4096", 4096), ("0", 32_768), ("4k", 32_768)] {
        let length = with("OLLAMA_CONTEXT_LENGTH", value).context_length;
        let proxy = Proxy::with(&upstream, |config| config.context_length = length);
        for (name, key, expected) in
            [("m", "m.context_length", unknown), ("tagged:8b", "tagged.context_length", 8192)]
        {
            let body = json!({"model": name}).to_string();
            let shown = proxy.ask("/api/show", body).json();
            assert_eq!(shown["model_info"][key], expected, "{value} {name}");
        }
    }
}

#[test]
fn an_empty_host_listens_on_all_interfaces() {
    let asked = with("OLLAMA_HOST", ":0");
    assert_eq!((asked.host.as_str(), asked.port), ("", 0));
    let proxy = Proxy::with(&Upstream::start(), |config| {
        (config.host, config.port) = (asked.host, asked.port);
    });
    assert!(proxy.addr().ip().is_unspecified() && proxy.addr().port() > 0, "{}", proxy.addr());
    let mut client = Client::connect(([127, 0, 0, 1], proxy.addr().port()).into());
    assert_eq!(client.get("/").answer().body, "Ollama is running");
}

#[test]
fn bad_values_that_ollama_forgives_are_warnings() {
    for (variable, value) in FORGIVEN {
        let config = with(variable, value);
        let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
        let told = warning.starts_with(&format!("{variable} is {value:?}: "));
        assert!(told && warning.contains("; using "), "{warning}");
        assert_eq!(config.describe(), with(variable, "").describe(), "{variable}={value}");
    }
}

#[test]
fn a_bad_origin_is_an_error_at_the_start() {
    let env = |name: &str| match name {
        "OPENAI_BASE_URL" => Some("http://upstream.test".to_owned()),
        "OLLAMA_ORIGINS" => Some("example.com".to_owned()),
        _ => None,
    };
    let error = config::from_sources(Vec::<OsString>::new(), &env, &[]).expect_err("no scheme");
    let [problem] = error.problems.as_slice() else { panic!("{error}") };
    assert!(problem.starts_with("OLLAMA_ORIGINS is \"example.com\": expected "), "{problem}");
}

#[test]
fn what_has_no_meaning_is_accepted_without_a_word() {
    let plain = with("", "");
    for (variable, why) in IGNORED {
        for value in ["1", "true", "0", "-1", "nonsense", "/a/folder", " \"q8_0\" "] {
            let config = with(variable, value);
            assert_eq!(config.describe(), plain.describe(), "{variable}={value}: {why}");
            assert_eq!(config.warnings, [""; 0], "{variable}={value}: {why}");
        }
    }
}

#[test]
fn the_documents_name_every_variable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).expect("a README");
    let honoured = HONOURED.iter().map(|(variable, ..)| *variable);
    let ignored = IGNORED.iter().map(|(variable, _)| *variable);
    let outgoing = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    for variable in honoured.chain(outgoing) {
        assert!(readme.contains(&format!("`{variable}`")), "{variable}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy/README.md");
    let readme = fs::read_to_string(path).expect("a README");
    for variable in ignored {
        assert!(readme.contains(&format!("`{variable}`")), "{variable}");
    }
}
