//! Durations as scenarios write them: `250ms`, `10s`, `2m`, and ranges of them, `2s..5s`.

use serde::{Deserialize, Serialize};
use stdx::Rng;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Millis(pub u64);

/// Thirty days: nothing here lasts longer, and sums of some are far from the end of what a number holds.
pub(crate) const MILLIS_MAX: u64 = 30 * 24 * 3_600_000;

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl From<Millis> for String {
    fn from(millis: Millis) -> String {
        millis.to_string()
    }
}

impl TryFrom<String> for Millis {
    type Error = String;

    fn try_from(text: String) -> Result<Millis, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let number = digits.parse::<u64>().ok();
        let millis = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
        if millis.is_some_and(|millis| millis > MILLIS_MAX) {
            return Err(format!("{text:?} is longer than 30 days"));
        }
        millis.map(Millis).ok_or_else(|| format!("{text:?} is not a duration such as 250ms, 10s or 2m"))
    }
}

/// How long something lasts, or when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pace {
    /// Drawn between the two, in milliseconds.
    Between(u64, u64),
    /// As soon as the cluster has recovered.
    Recovered,
}

impl From<Pace> for String {
    fn from(pace: Pace) -> String {
        match pace {
            Pace::Recovered => "recovered".into(),
            Pace::Between(from, to) if from == to => Millis(from).to_string(),
            Pace::Between(from, to) => format!("{}..{}", Millis(from), Millis(to)),
        }
    }
}

impl TryFrom<String> for Pace {
    type Error = String;

    fn try_from(text: String) -> Result<Pace, String> {
        if text == "recovered" {
            return Ok(Pace::Recovered);
        }
        let (from, to) = text.split_once("..").unwrap_or((&text, &text));
        let read = |part: &str| {
            let wrong = |why| format!("{why}; a range of them such as 2s..5s; or `recovered`");
            Millis::try_from(part.trim().to_string()).map_err(wrong)
        };
        let (from, to) = (read(from)?, read(to)?);
        if from > to {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Pace::Between(from.0, to.0))
    }
}

impl Pace {
    /// Milliseconds, drawn; `None` when it waits for recovery.
    pub(crate) fn draw(self, rng: &mut Rng) -> Option<u64> {
        match self {
            Pace::Between(from, to) => Some(from + rng.below(to - from + 1)),
            Pace::Recovered => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_ranges_are_read_as_they_are_written() {
        for text in ["0s", "250ms", "10s", "2m", "1500ms", "2s..5s", "recovered"] {
            assert_eq!(String::from(Pace::try_from(text.to_string()).unwrap()), text);
        }
        for wrong in ["", "10", "s", "-1s", "5s..2s", "1d", "999999999999999999h", "721h"] {
            assert!(Pace::try_from(wrong.to_string()).is_err(), "{wrong}");
        }
    }
}
