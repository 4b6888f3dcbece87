//! The section `updates`: from what was read to [`Updates`], and merging.

use super::document::Document;
use super::read::{Fields, Item, Reader};
use super::types::Updates;
use crate::update::window::{self, Window};

/// Shortest time between two looks, in seconds.
const SHORTEST_INTERVAL_S: u64 = 60;

/// Makes the section of what was read, and checks what belongs together.
pub(super) fn updates(reader: &mut Reader, fields: &Fields) -> Updates {
    let interval = fields.integer::<u64>("interval");
    if let Some(item) = fields.get("interval").filter(|_| interval.is_some_and(|seconds| seconds < SHORTEST_INTERVAL_S))
    {
        reader.error(item.place, "updates.interval: expected at least 1m");
    }
    let updates = Updates {
        automatic: fields.boolean("automatic"),
        source: fields.text("source"),
        channel: fields.text("channel"),
        interval_ms: interval.map(|seconds| seconds * 1000),
        windows: fields.get("windows").map(|item| windows(reader, item)),
        bandwidth: fields.integer("bandwidth"),
        username: fields.text("username"),
        password: fields.text("password"),
        proxy: fields.text("proxy"),
    };
    if updates.username.is_some() && !fields.keys.contains_key("password") {
        reader.error(fields.key("username"), "updates.username is stated and updates.password is not");
    }
    if updates.password.is_some() && updates.source.as_ref().is_some_and(|source| source.starts_with("http://")) {
        reader.warn(
            fields.key("password"),
            "updates.password: the source is http://, where everybody on the way reads it",
        );
    }
    updates
}

fn windows(reader: &mut Reader, list: &Item) -> Vec<Window> {
    let items = list.items();
    if items.len() > window::MAX_WINDOWS {
        reader.error(list.place, format!("updates.windows: expected at most {}", window::MAX_WINDOWS));
    }
    let windows = items.iter().enumerate();
    windows.filter_map(|(index, item)| one_window(reader, &item.fields(), index)).collect()
}

/// Makes a window of texts whose form has been checked; `None` when one of them was wrong.
fn one_window(reader: &mut Reader, fields: &Fields, index: usize) -> Option<Window> {
    let days = fields.texts("days").unwrap_or_default().join(",");
    let days = if days.is_empty() { Ok(Vec::new()) } else { window::parse_days(&days) };
    if days.is_err() {
        reader.error(fields.key("days"), format!("updates.windows[{index}].days: expected daily alone, or days"));
    }
    Some(Window {
        days: days.ok()?,
        start_minute: window::parse_start(&fields.text("start")?).ok()?,
        length_minutes: window::parse_length(&fields.text("length")?).ok()?,
        time_zone: fields.text("time-zone").unwrap_or_else(|| "UTC".to_owned()),
    })
}

/// Merges the sections key by key, the highest document first. User name, password and proxy belong to a source: they
/// do not go to one that a higher document states.
pub(super) fn merge(documents: &[&Document]) -> Updates {
    fn first<T: Clone>(sections: &[&Updates], value: impl Fn(&Updates) -> Option<&T>) -> Option<T> {
        sections.iter().find_map(|section| value(section)).cloned()
    }
    let sections: Vec<&Updates> = documents.iter().map(|document| &document.updates).collect();
    let owner = sections.iter().position(|section| section.source.is_some());
    let of_source = &sections[..owner.map_or(sections.len(), |owner| owner + 1)];
    let password = of_source.iter().find(|section| section.password.is_some());
    Updates {
        automatic: first(&sections, |section| section.automatic.as_ref()),
        source: first(&sections, |section| section.source.as_ref()),
        channel: first(&sections, |section| section.channel.as_ref()),
        interval_ms: first(&sections, |section| section.interval_ms.as_ref()),
        windows: first(&sections, |section| section.windows.as_ref()),
        bandwidth: first(&sections, |section| section.bandwidth.as_ref()),
        // Both of one document: a bearer token has no user name.
        username: password.and_then(|section| section.username.clone()),
        password: password.and_then(|section| section.password.clone()),
        proxy: first(of_source, |section| section.proxy.as_ref()),
    }
}
