//! A real Ollama among the upstreams, asked in its own protocol.
//!
//! Requests go to the routes beside `/v1` as they are, and so do the responses: nothing is translated and
//! nothing repaired, but members that the operator adds to each request are added here, too. An upstream is an Ollama if the configuration says so (`profile`), or if it says so
//! itself: `GET /api/version` has the one member `version`, and `/` is not something else. It is asked
//! beside the model list, again after an hour, and only where nothing else has named its family. Other servers imitate these
//! routes in parts; theirs is another page at `/`. Invariant: a server whose family is known to be another
//! one is never asked.

use std::time::{Duration, Instant};

use super::transport::agent::Payload;
use super::{Client, ConnectionPolicy, Operation, PassHeaders, PassResponse, Trace};
use crate::api::ollama::response::IS_RUNNING;
use crate::backends::profiles::{self, Profile};
use crate::error::Result;
use crate::models::list::ModelList;

/// The longest wait for a version, for which a list waits.
const VERSION_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest wait for the running models, for which a client's own request waits.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest silence of a request that changes what the server has: a download without progress lines.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The name of Ollama's profile.
const OLLAMA: &str = "ollama";

/// Below the root of its API.
const VERSION_PATH: &str = "/api/version";
const RUNNING_PATH: &str = "/api/ps";
const SHOW_PATH: &str = "/api/show";

/// A request of Ollama's own API.
pub struct NativeRequest<'a> {
    /// `POST`, `DELETE`, `HEAD` or `GET`.
    pub method: &'static str,
    /// Such as `/api/chat`.
    pub path: &'a str,
    /// The body.
    pub payload: Payload<'a>,
    /// Headers of the client.
    pub headers: &'a PassHeaders,
    /// Whether it changes what the server has, so that it is sent again only where connecting failed.
    pub is_change: bool,
}

impl Client {
    /// Whether the upstream is an Ollama, as far as is known.
    pub fn is_ollama(&self) -> bool {
        self.current_profile().is_some_and(|profile| profile.name == OLLAMA)
    }

    /// Whether nothing is known of the upstream yet, and nobody has begun to find out.
    pub fn begin_look(&self) -> bool {
        self.configured_profile.is_none() && self.agent.family.begin_look(Instant::now())
    }

    /// Whether the upstream is an Ollama, or may turn out to be one.
    pub fn may_be_ollama(&self) -> bool {
        let is_open = || self.agent.family.is_open();
        self.current_profile().map_or_else(is_open, |profile| profile.name == OLLAMA)
    }

    /// Passes a request of Ollama's own API on.
    ///
    /// # Errors
    /// Failures without a response; the upstream's own errors are responses.
    pub fn pass_native(
        &self,
        request: NativeRequest<'_>,
        trace: &mut Trace,
    ) -> Result<PassResponse> {
        let NativeRequest { method, path, payload, headers, is_change } = request;
        let generates = !is_change && path != SHOW_PATH;
        let extended = if generates { self.extend(&payload, headers) } else { None };
        match &extended {
            Some(body) => {
                let payload = Payload::Bytes(body.as_bytes());
                let request = NativeRequest { method, path, payload, headers, is_change };
                self.send_native(request, trace)
            }
            None => {
                let request = NativeRequest { method, path, payload, headers, is_change };
                self.send_native(request, trace)
            }
        }
    }

    fn send_native(&self, request: NativeRequest<'_>, trace: &mut Trace) -> Result<PassResponse> {
        let operation = Operation::native(request.method);
        let mut call = self.new_call(operation, None, request.payload);
        call.request.url = self.base_url.root_url(request.path);
        if request.is_change {
            call.only_reconnects = true;
            call.request.timeout = CHANGE_TIMEOUT;
        }
        let result = self.send_pass(call, request.headers, trace);
        self.prefer_response(operation, trace, result)
    }

    /// The response of `/api/ps`, if there is one in time. The attempt counts nowhere.
    pub fn fetch_running(&self, trace: &Trace) -> Option<String> {
        self.fetch_quickly(RUNNING_PATH, RUNNING_TIMEOUT, trace).ok()
    }

    /// Finds out whether the upstream is an Ollama, unless its family is known, also by its list; its profile
    /// if it is.
    pub(super) fn detect_ollama(
        &self,
        list: &ModelList,
        trace: &Trace,
    ) -> Option<&'static Profile> {
        let family = &self.agent.family;
        if self.configured_profile.is_some() || !family.is_check_due(Instant::now()) {
            return None;
        }
        let is_other = list.profile.is_some_and(|profile| profile.name != OLLAMA);
        if is_other || self.base_url.is_azure_versioned() {
            family.record_version(Some(None), Instant::now());
            return None;
        }
        self.ask_version(trace)
    }

    /// Asks an Ollama whether it still is one, if the last answer is old.
    pub(super) fn recheck_ollama(&self, trace: &Trace) {
        if self.configured_profile.is_none() && self.agent.family.is_recheck_due(Instant::now()) {
            self.ask_version(trace);
        }
    }

    /// Asks the upstream whether it is an Ollama; its profile if it is.
    fn ask_version(&self, trace: &Trace) -> Option<&'static Profile> {
        let said = self.is_ollama_version(trace).ok();
        let profile = |is_ollama: bool| profiles::find_by_name(OLLAMA).filter(|_| is_ollama);
        let said = said.map(profile);
        if self.agent.family.record_version(said, Instant::now()) {
            match said.flatten() {
                Some(_) => {
                    log::info!("upstream {:?} is an Ollama: using its own API", self.settings.name)
                }
                None => log::info!(
                    "upstream {:?} is no longer an Ollama: using OpenAI's API",
                    self.settings.name
                ),
            }
        }
        said.flatten()
    }

    /// Whether version and root are Ollama's; an error if the server could not be asked.
    fn is_ollama_version(&self, trace: &Trace) -> Result<bool> {
        let version = match self.fetch_quickly(VERSION_PATH, VERSION_TIMEOUT, trace) {
            Ok(text) => text,
            Err(error) if error.is_unreachable() => return Err(error),
            Err(_) => return Ok(false),
        };
        if !is_version(&version) {
            return Ok(false);
        }
        // A reverse proxy may have nothing there.
        let root = self.fetch_quickly("/", VERSION_TIMEOUT, trace);
        Ok(root.map_or(true, |text| text.trim() == IS_RUNNING))
    }

    /// One attempt that counts nowhere.
    fn fetch_quickly(&self, path: &str, timeout: Duration, trace: &Trace) -> Result<String> {
        let mut call = self.new_call(Operation::native("GET"), None, Payload::Empty);
        call.request.url = self.base_url.root_url(path);
        call.request.timeout = timeout.min(self.agent.timeout);
        let response = self.exchange(
            &mut call,
            ConnectionPolicy::Reuse,
            &mut trace.clone(),
            Self::read_response,
        );
        response.map_err(|failure| failure.error)?.into_text()
    }
}

/// True for `{"version":"1.2.3"}`, which may end in a name such as `-rc1`.
fn is_version(body: &str) -> bool {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(body) else { return false };
    let version = value["version"].as_str().unwrap_or_default();
    let is_only = value.as_object().is_some_and(|members| members.len() == 1);
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    is_only && numbers.split('.').count() == 3 && numbers.split('.').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ollama_s_version_is_one() {
        for body in [r#"{"version":"0.40.16"}"#, r#"{ "version" : "0.40.0-rc6" }"#] {
            assert!(is_version(body), "{body}");
        }
        for body in [
            "",
            "0.40.16",
            "\"0.40.16\"",
            r#"{"version":"b4567"}"#,
            r#"{"version":"0.9"}"#,
            r#"{"version":"1.2.3.4"}"#,
            r#"{"version":"v0.40.16"}"#,
            r#"{"version":5}"#,
            r#"{"version":"0.40.16","commit":"x"}"#,
            r#"{"error":"Unexpected endpoint or method. (GET /api/version)"}"#,
            "<html>",
        ] {
            assert!(!is_version(body), "{body}");
        }
    }
}
