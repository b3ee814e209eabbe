//! Accounts without credit: every request fails until somebody pays.
//!
//! Pure. Invariant: a limit that ends by itself is none of these.

use super::phrases::ErrorClassifier;

/// Codes and types of an account without credit.
const QUOTA_CODES: [&str; 5] = [
    "insufficientquota",
    "insufficientbalance",
    "insufficientcredits",
    "billing",
    "paymentrequired",
];

/// The same in messages. Gemini says so of a limit per minute, too, and then names a delay.
const QUOTA_TEXTS: [&str; 5] = [
    "exceeded your current quota",
    "insufficient balance",
    "insufficient credit",
    "insufficient quota",
    "out of credit",
];

impl ErrorClassifier {
    /// The account has no credit left. `has_delay` tells that the server names the time of a retry.
    pub(super) fn is_out_of_quota(&self, status: u16, has_delay: bool) -> bool {
        let says = || matches!(status, 402 | 403 | 429) && self.contains_any(&QUOTA_TEXTS);
        status == 402 || self.has_code(&QUOTA_CODES) || (!has_delay && says())
    }
}
