//! Ollama's environment variables (ollama-api.md 17): each one and what this program does with it.
//!
//! A variable is honoured, which shows in the configuration; or it means nothing to a program
//! without models and graphics cards, and any value of it is accepted without a word.

mod support;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use ollama_openai_proxy::config::{self, Config};
use support::upstream::{Step, Upstream};

/// Honoured: the variable, a value, the line of the description that it makes.
const HONOURED: &[(&str, &str, &str)] = &[
    ("OLLAMA_HOST", "http://1.2.3.4", "OLLAMA_HOST=1.2.3.4:80"),
    ("OLLAMA_ORIGINS", "http://a.test,*.b.test", "OLLAMA_ORIGINS=http://a.test,*.b.test"),
    ("OLLAMA_KEEP_ALIVE", "90", "OLLAMA_KEEP_ALIVE=90s"),
    ("OLLAMA_MAX_QUEUE", "7", "OLLAMA_MAX_QUEUE=7"),
    ("OLLAMA_CONTEXT_LENGTH", "4096", "OLLAMA_CONTEXT_LENGTH=4096"),
    ("OLLAMA_DEBUG", "2", "LOG_LEVEL=TRACE"),
];

/// Bad values that Ollama takes as its default, with a warning.
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
        Ok(config::Command::Run(config)) => config,
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

#[test]
fn bad_values_that_ollama_forgives_are_warnings() {
    for (variable, value) in FORGIVEN {
        let config = with(variable, value);
        let [warning] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
        let told = warning.starts_with(&format!("{variable} is {value:?}: "));
        assert!(told && warning.ends_with(" is used"), "{warning}");
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
    assert!(problem.starts_with("OLLAMA_ORIGINS is \"example.com\": write "), "{problem}");
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
fn the_readme_names_every_variable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).expect("a README");
    let honoured = HONOURED.iter().map(|(variable, ..)| *variable);
    let ignored = IGNORED.iter().map(|(variable, _)| *variable);
    let outgoing = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    for variable in honoured.chain(ignored).chain(outgoing) {
        assert!(readme.contains(&format!("`{variable}`")), "{variable}");
    }
}

#[test]
fn outgoing_requests_take_the_proxy_of_the_environment() {
    let upstream = Upstream::start();
    let port = upstream.base_url();
    let port = port.trim_end_matches("/v1").rsplit(':').next().expect("a port");
    // Not a loopback address, which would never be asked through a proxy, and yet this machine.
    let target = format!("0.0.0.0:{port}");
    for variable in ["HTTP_PROXY", "HTTPS_PROXY"] {
        for (spared, through) in [("", true), ("other.test", true), ("0.0.0.0", false)] {
            let proxy = Upstream::start();
            proxy.script(vec![Step::Send(b"HTTP/1.1 200 Connected\r\n\r\n".to_vec())]);
            let mut command = Command::new(env!("CARGO_BIN_EXE_ollama-openai-proxy"));
            let at = proxy.base_url();
            let checked = command
                .env_clear()
                .current_dir(env!("CARGO_TARGET_TMPDIR"))
                .stdin(Stdio::null())
                .arg("--check")
                .env("OPENAI_BASE_URL", format!("http://{target}/v1"))
                .env(variable, at.trim_end_matches("/v1"))
                .env("NO_PROXY", spared)
                .output()
                .expect("it starts");
            let out = String::from_utf8_lossy(&checked.stdout);
            assert!(checked.status.success(), "{variable} NO_PROXY={spared}: {out}");
            assert_eq!(proxy.connections(), usize::from(through), "NO_PROXY={spared}: {out}");
            if through {
                let request = proxy.request();
                assert_eq!((request.method.as_str(), &request.path), ("CONNECT", &target));
            }
        }
    }
}
