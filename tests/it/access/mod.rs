//! Access control: origins, hosts and client keys.

mod cors;
mod host;
mod keys;
