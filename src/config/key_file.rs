//! Reads the file of client keys, and warns if other machines can reach an address without keys.
//!
//! Never changes the file. Invariant: a file that cannot be read or has no key is an error, never
//! "no keys"; no message holds a key, nor the path, because a user may have put a key in its place.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use super::{Config, read_file};
use crate::http::client_keys::ClientKeys;
use crate::observe::system_error;

/// The option that names the file.
const OPTION_NAME: &str = "PROXY_API_KEYS_FILE";

/// Adds the keys of the file, and a warning if everyone may use the proxy.
///
/// # Errors
/// The file cannot be read, or has no valid keys.
pub fn finalize(config: &mut Config) -> Result<(), String> {
    if let Some(path) = &config.proxy_api_keys_file {
        let (keys, warning) =
            read_key_file(path).map_err(|reason| format!("{OPTION_NAME}: {reason}"))?;
        let added = config.proxy_api_keys.extend(keys);
        added.map_err(|reason| format!("{OPTION_NAME}: {reason}"))?;
        config.warnings.extend(warning);
    }
    if config.proxy_api_keys.is_empty() && is_exposed(&config.host, lookup_host) {
        config.warnings.push(
            "anyone who can reach this address can use the upstream with your key: set \
             PROXY_API_KEYS, or listen on 127.0.0.1 (OLLAMA_HOST)"
                .to_owned(),
        );
    }
    Ok(())
}

/// The keys of a file, and a warning about its permissions.
fn read_key_file(path: &Path) -> Result<(ClientKeys, Option<String>), String> {
    let unreadable = |error: io::Error| system_error::describe_read(&error);
    let file = File::open(path).map_err(unreadable)?;
    let warning = permission_warning(&file);
    let mut bytes = Vec::new();
    file.take(read_file::MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > read_file::MAX_FILE_BYTES {
        return Err("the file is larger than 1 MiB".to_owned());
    }
    Ok((ClientKeys::parse_file(&bytes)?, warning))
}

/// A warning about a file that every user of the machine can read or write.
#[cfg(unix)]
fn permission_warning(file: &File) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;

    let mode = file.metadata().ok()?.permissions().mode() & 0o777;
    (mode & 0o006 != 0).then(|| {
        format!(
            "{OPTION_NAME}: file is accessible by other users (mode {mode:o}): run chmod 600 on it"
        )
    })
}

#[cfg(not(unix))]
fn permission_warning(_: &File) -> Option<String> {
    None
}

/// True if an address or name to listen on is, or may be, not a loopback address.
fn is_exposed(host: &str, resolve: impl Fn(&str) -> Vec<IpAddr>) -> bool {
    let found = match host {
        "" => return true,
        name if name.eq_ignore_ascii_case("localhost") => return false,
        host => host.parse().map_or_else(|_| resolve(host), |address: IpAddr| vec![address]),
    };
    found.is_empty() || found.iter().any(|address| !address.to_canonical().is_loopback())
}

/// The addresses of a name; none if it cannot be resolved.
fn lookup_host(name: &str) -> Vec<IpAddr> {
    let found = (name, 0).to_socket_addrs();
    found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_not_exposed() {
        let resolve = |name: &str| match name {
            "near" => vec![IpAddr::from([127, 0, 1, 1])],
            "both" => vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1])],
            _ => Vec::new(),
        };
        for host in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "near"] {
            assert!(!is_exposed(host, resolve), "{host}");
        }
        for host in ["", "0.0.0.0", "::", "192.168.1.5", "2001:db8::1", "both", "nobody-knows"] {
            assert!(is_exposed(host, resolve), "{host}");
        }
    }
}
