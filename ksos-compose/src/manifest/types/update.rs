//! Updates of the node: what it trusts, where its releases come from, when it takes them, and what a release says.

use ksos_formats::update::Window;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::texts;
use super::values::{Duration, HostPath};

/// Updates. An image with keys takes them, and its build writes a release; one without keys does neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Update {
    /// Public keys that releases are signed by: Ed25519, as `openssl pkey -pubout` writes them (PEM), one a file; or one
    /// file with a key set (JSON).
    pub keys: Vec<HostPath>,
    /// How many different keys must have signed. A key set states its own.
    #[schemars(with = "u32", range(min = 1, max = 32))]
    pub threshold: Option<u32>,
    /// Public keys of `cosign` (PEM, ECDSA P-256 or Ed25519): with any, a release in a registry must be signed by one of
    /// them, too.
    pub cosign_keys: Vec<HostPath>,
    /// What kind of machine the image is for. A node refuses releases for another.
    #[schemars(with = "texts::UpdateName")]
    pub board: String,
    /// Where releases come from: `https://HOST/PATH`, `http://HOST/PATH` or `oci://HOST/REPOSITORY`. A site's
    /// configuration can say otherwise.
    #[schemars(with = "texts::UpdateSource")]
    pub source: Option<String>,
    /// Channel that nodes follow.
    #[schemars(with = "texts::UpdateName")]
    pub channel: String,
    /// Whether a node updates by itself. Otherwise it looks, and says what there is.
    pub automatic: bool,
    /// Time between two looks; up to a tenth more is added at random.
    pub interval: Duration,
    /// Time that a new version has to become healthy. After it, the node goes back to the old one.
    pub gate: Duration,
    /// Time that a new version must stay healthy before it is kept.
    pub hold: Duration,
    /// When a node may install and restart by itself. None: always.
    pub windows: Vec<UpdateWindow>,
    /// The oldest version that may update to this one; an older node needs a release between.
    #[schemars(with = "texts::Semver")]
    pub minimum_version: Option<String>,
    /// How long after its epoch the release can be installed. Not stated: for ever.
    #[schemars(with = "Duration")]
    pub valid_for: Option<Duration>,
}

impl Default for Update {
    fn default() -> Self {
        Update {
            keys: Vec::new(),
            threshold: None,
            cosign_keys: Vec::new(),
            board: "generic".to_owned(),
            source: None,
            channel: "stable".to_owned(),
            automatic: true,
            interval: Duration::seconds(6 * 3600),
            gate: Duration::seconds(600),
            hold: Duration::seconds(60),
            windows: Vec::new(),
            minimum_version: None,
            valid_for: None,
        }
    }
}

impl Update {
    /// Whether nodes take updates, and a build writes a release.
    pub fn is_enabled(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Returns the windows as a node reads them.
    pub fn windows(&self) -> Vec<Window> {
        self.windows.iter().map(UpdateWindow::window).collect()
    }
}

/// When a node may install and restart by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UpdateWindow {
    /// Days on which it opens: `sat`, `mon-fri`, `mon, wed, fri-sun`, or `daily`.
    #[serde(default = "daily")]
    #[schemars(with = "texts::Days")]
    pub days: String,
    /// Local time at which it opens: `02:00`.
    #[schemars(with = "texts::TimeOfDay")]
    pub start: String,
    /// How long it is open: minutes, hours or days up to a week, `3h` or `1h30m`.
    #[schemars(with = "texts::WindowLength")]
    pub length: String,
    /// `UTC`, an offset (`+02:00`), a POSIX TZ string, or a name of the tz database (`Europe/Berlin`), which the image must
    /// have in `/usr/share/zoneinfo` then.
    #[serde(default = "utc")]
    #[schemars(with = "texts::TimeZone")]
    pub time_zone: String,
}

impl UpdateWindow {
    fn window(&self) -> Window {
        let UpdateWindow { days, start, length, time_zone } = self;
        Window::parse(days, start, length, time_zone).expect("validation has parsed every window")
    }
}

fn daily() -> String {
    "daily".to_owned()
}

fn utc() -> String {
    "UTC".to_owned()
}
