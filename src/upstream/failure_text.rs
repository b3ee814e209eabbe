//! What the log says of a failure, in words.
//!
//! Pure. Never repeats a text of the upstream or of the client, which can hold parts of a prompt.
//! Invariant: a text of this program's own errors is the one that clients read, so that both say the same.

use crate::error::Error;

impl Error {
    /// What happened, in words for the log. Texts of the upstream or the client are left out: they can hold
    /// parts of a prompt.
    pub fn log_text(&self) -> String {
        match self {
            Self::Connect(reason) => reason.clone(),
            Self::Exhausted { last, .. } => last.log_text(),
            Self::UpstreamStatus { status, .. } => {
                format!("the upstream returned status {status}{}", self.status_hint())
            }
            Self::UpstreamInBand { status, .. } => {
                format!("the upstream reported an error in its response (status {status})")
            }
            // Quoted parts are the upstream's text.
            Self::UpstreamProtocol(reason) => {
                let own = reason.split('"').next().unwrap_or_default().trim_end();
                format!("invalid response from the upstream: {own}")
            }
            Self::Internal(what) => format!("internal error: {what}"),
            Self::MissingEndpoint(_)
            | Self::ClosedBeforeResponse { .. }
            | Self::StaleConnection
            | Self::UpstreamDown { .. }
            | Self::UpstreamTimeout(_)
            | Self::IncompleteStream
            | Self::ResponseTooLarge => self.message(),
            _ => self.to_string(),
        }
    }

    /// What an upstream's status says to its operator.
    fn status_hint(&self) -> &'static str {
        let is_out_of_quota = self.details().is_some_and(|details| details.is_out_of_quota);
        match self.status() {
            Some(402 | 429) if is_out_of_quota => " (the account has no credit left)",
            Some(401) => " (its key is missing or wrong)",
            Some(402) => " (the account has no credit left)",
            Some(403) => " (its key does not allow this)",
            Some(404) => " (it does not have the model or the path)",
            Some(429) => " (too many requests)",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Retry, TimeoutPhase, UpstreamDetails};

    #[test]
    fn the_log_tells_what_happened_in_words() {
        use TimeoutPhase::{Connect, Head};
        let told = |error: Error| error.log_text();
        assert_eq!(told(Error::Connect("connection refused".to_owned())), "connection refused");
        let status = |status| told(Error::upstream_status(status, "a secret", Retry::Never));
        assert_eq!(status(500), "the upstream returned status 500");
        for (code, word) in
            [(401, "key"), (402, "credit"), (403, "key"), (404, "model"), (429, "many")]
        {
            assert!(status(code).contains(word), "{}", status(code));
        }
        let details = UpstreamDetails { is_out_of_quota: true, ..UpstreamDetails::default() };
        let broke = Error::UpstreamStatus {
            status: 429,
            message: "a secret".to_owned(),
            retry: Retry::Never,
            details: Some(Box::new(details)),
        };
        assert!(told(broke).ends_with("(the account has no credit left)"));
        for error in [
            Error::upstream_in_band(500, "a secret"),
            Error::upstream_protocol("an event with \"a secret\""),
            Error::invalid_request("a secret"),
            Error::ModelNotFound("a secret".to_owned()),
            Error::UpstreamTimeout(Connect),
            Error::UpstreamTimeout(Head),
            Error::Exhausted { last: Box::new(Error::IncompleteStream), tried: 2 },
            Error::Internal("a bug"),
        ] {
            let text = told(error.clone());
            assert!(!text.is_empty() && !text.contains("secret"), "{text}");
        }
    }
}
