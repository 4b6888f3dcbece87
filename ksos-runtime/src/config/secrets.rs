//! Secrets that the configuration holds, and taking them out of texts that others can read.
//!
//! `/proc/cmdline` is what the boot loader passed and stays as it is; nothing that the runtime writes repeats a secret
//! from it or from a document: console, logs, `status.json`, reasons of emergencies.

use ksos_formats::config::{NodeConfig, is_secret_parameter};

use crate::cmdline::Cmdline;

/// What stands in the place of a secret.
const HIDDEN: &str = "[secret]";
/// Endings of the last part of a key whose value is a secret, with dashes.
const SECRET_ENDINGS: [&str; 5] = ["edge-key", "token", "password", "secret", "proxy"];
/// Shortest value that is taken for a secret, in bytes: a shorter one would blacken half of every text.
const SHORTEST: usize = 4;

/// Texts that must not be shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secrets(Vec<String>);

/// Returns `text` with every secret replaced.
pub fn scrub(text: &str, secrets: &Secrets) -> String {
    secrets.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), HIDDEN))
}

/// Returns whether the value of this key is a secret: `kubesolo.portainer-edge-key`, `kubeconfig_token`.
fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase().replace('_', "-");
    is_secret_parameter(key) || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

impl Secrets {
    /// Returns the secrets on a kernel command line.
    pub fn of_cmdline(cmdline: &Cmdline) -> Self {
        let mut secrets = Secrets::default();
        cmdline.parameters().filter(|(key, _)| is_secret(key)).for_each(|(_, value)| secrets.add(value.unwrap_or("")));
        secrets
    }

    /// Adds the secrets of a document that may be invalid: the values of `KEY: VALUE` lines.
    pub fn add_document(&mut self, text: &str) {
        for line in text.lines() {
            // Also in flow mappings: `{token: abc, enabled: true}`.
            for part in line.split(['{', ',']) {
                let Some((key, value)) = part.split_once(':') else { continue };
                let plain = |text: &str| text.trim().trim_matches(['"', '\'', '}', '-', ' ']).to_owned();
                if is_secret(&plain(key)) {
                    let value = value.split(" #").next().unwrap_or("");
                    self.add(value.trim().trim_end_matches('}').trim().trim_matches(['"', '\'']));
                }
            }
        }
    }

    /// Adds the secrets of an effective configuration.
    pub fn add_config(&mut self, config: &NodeConfig) {
        self.add(config.kubeconfig.token.as_deref().unwrap_or(""));
        self.add(config.updates.password.as_deref().unwrap_or(""));
        // It may have a password in it.
        self.add(config.updates.proxy.as_deref().unwrap_or(""));
        for (_, value) in config.kubesolo.flags.iter().filter(|(key, _)| is_secret(key)) {
            self.add(value.as_str().unwrap_or(""));
        }
    }

    fn add(&mut self, secret: &str) {
        if secret.len() >= SHORTEST && !self.0.iter().any(|known| known == secret) {
            // The longest first: a secret that another one begins with must not leave the other one's end behind.
            let place = self.0.partition_point(|known| known.len() >= secret.len());
            self.0.insert(place, secret.to_owned());
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "aHR0cHM6Ly9lZGdl";

    #[test]
    fn the_command_line_is_scrubbed_in_every_spelling() {
        let line = format!(
            "quiet ksos.kubesolo.portainer-edge-key={KEY} kubesolo.portainer_edge_key=\"{KEY} x\" ksos.kubeconfig.token=abcd ksos.hostname=n1"
        );
        let secrets = Secrets::of_cmdline(&Cmdline::parse(&line));
        let scrubbed = scrub(&line, &secrets);
        assert_eq!(
            scrubbed,
            "quiet ksos.kubesolo.portainer-edge-key=[secret] kubesolo.portainer_edge_key=\"[secret]\" ksos.kubeconfig.token=[secret] ksos.hostname=n1"
        );
        assert_eq!(format!("{secrets:?}"), "Secrets(3)", "the values are not printed by accident");
    }

    #[test]
    fn documents_also_invalid_ones_and_short_values() {
        let mut secrets = Secrets::default();
        let text = format!(
            "kubesolo:\n  portainer-edge-key: '{KEY}' # x\n  broken\nkubeconfig: {{enabled: true, token: t0ken}}\npassword: abc\n"
        );
        secrets.add_document(&text);
        assert_eq!(scrub(&format!("found {KEY}, t0ken and abc"), &secrets), "found [secret], [secret] and abc");
        assert_eq!(scrub("portainer-edge-key is no secret itself", &secrets), "portainer-edge-key is no secret itself");
    }

    #[test]
    fn effective_configurations() {
        let mut config = NodeConfig::default();
        config.kubesolo.flags.insert("portainer-edge-key".to_owned(), KEY.into());
        config.kubesolo.flags.insert("node-ip".to_owned(), "192.0.2.1".into());
        config.kubeconfig.token = Some("bearer-token".to_owned());
        let mut secrets = Secrets::default();
        secrets.add_config(&config);
        assert_eq!(scrub(&format!("{KEY} bearer-token 192.0.2.1"), &secrets), "[secret] [secret] 192.0.2.1");
    }
}
