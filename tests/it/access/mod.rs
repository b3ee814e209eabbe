//! Access control: origins, hosts and client keys.

mod cors;
mod host;
mod key_limits;
mod key_models;
mod keys;
