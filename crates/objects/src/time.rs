//! Instants as values: milliseconds since the Unix epoch, and their RFC 3339 text.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn plus_ms(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms))
    }

    pub fn plus_secs(self, secs: i64) -> Timestamp {
        self.plus_ms(secs.saturating_mul(1000))
    }

    /// Milliseconds from `earlier` to `self`; negative when `earlier` is the later one.
    pub fn since_ms(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Kubernetes' `Time`: whole seconds, UTC.
    pub fn rfc3339(self) -> String {
        let instant = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        instant.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Kubernetes' `MicroTime`, used by leases and new events.
    pub fn rfc3339_micro(self) -> String {
        let instant = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        instant.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    }

    pub fn parse(text: &str) -> Option<Timestamp> {
        text.parse::<jiff::Timestamp>().ok().map(|instant| Timestamp(instant.as_millisecond()))
    }
}

/// A duration as kubectl prints ages: `45s`, `3m12s`, `5h`, `12d`. Rules of `duration.HumanDuration`.
pub fn human(ms: i64) -> String {
    let secs = (ms / 1000).max(0);
    let (mins, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    let two = |major: i64, unit: char, minor: i64, minor_unit: char| match minor {
        0 => format!("{major}{unit}"),
        _ => format!("{major}{unit}{minor}{minor_unit}"),
    };
    match () {
        () if secs < 120 => format!("{secs}s"),
        () if mins < 10 => two(mins, 'm', secs % 60, 's'),
        () if mins < 180 => format!("{mins}m"),
        () if hours < 8 => two(hours, 'h', mins % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () if days < 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

/// The age column: time since `text` (RFC 3339), or `<unknown>`.
pub fn age(text: Option<&str>, now: Timestamp) -> String {
    match text.and_then(Timestamp::parse) {
        Some(then) => human(now.since_ms(then)),
        None => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let at = Timestamp(1_700_000_000_123);
        assert_eq!(at.rfc3339(), "2023-11-14T22:13:20Z");
        assert_eq!(at.rfc3339_micro(), "2023-11-14T22:13:20.123000Z");
        assert_eq!(Timestamp::parse("2023-11-14T22:13:20.123Z"), Some(at));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn ages_read_like_kubectl() {
        let ages: Vec<String> = [5, 119, 125, 600, 7200, 11_000, 90_000, 200_000, 1_000_000, 70_000_000]
            .iter()
            .map(|secs| human(secs * 1000))
            .collect();
        assert_eq!(ages, ["5s", "119s", "2m5s", "10m", "120m", "3h3m", "25h", "2d7h", "11d", "2y80d"]);
    }
}
