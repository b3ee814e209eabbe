//! Who may ask: origins, hosts and keys.

mod cors;
mod host;
mod keys;
