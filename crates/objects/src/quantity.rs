//! Resource quantities (`500m`, `1.5Gi`, `2e3`): exact fixed-point numbers with a suffix.
//!
//! Rules: kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity.

use std::fmt;

/// A quantity in thousandths (milli). Finer input is rounded up, as Kubernetes does for anything
/// below a nano and schedulers do for anything below a milli.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    milli: i128,
}

const BINARY: [(&str, i128); 6] =
    [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("Pi", 1 << 50), ("Ei", 1 << 60)];
const DECIMAL: [(&str, i32); 9] =
    [("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    pub const fn from_milli(milli: i64) -> Quantity {
        Quantity { milli: milli as i128 }
    }

    /// Parses a quantity; `None` when the text breaks the grammar or exceeds 2^63 - 1.
    pub fn parse(text: &str) -> Option<Quantity> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
            return None;
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let milli = if let Some((_, factor)) = BINARY.iter().find(|(name, _)| *name == suffix) {
            div_up(mantissa.checked_mul(*factor)?.checked_mul(1000)?, scale)
        } else {
            let exponent = match suffix {
                "" => 0,
                _ => match DECIMAL.iter().find(|(name, _)| *name == suffix) {
                    Some((_, exponent)) => *exponent,
                    None => suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|e| e.abs() <= 18)?,
                },
            };
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            match exponent >= 0 {
                true => div_up(mantissa.checked_mul(power)?.checked_mul(1000)?, scale),
                false => div_up(mantissa.checked_mul(1000)?, scale.checked_mul(power)?),
            }
        };
        (milli / 1000 <= i128::from(i64::MAX)).then_some(Quantity { milli: if negative { -milli } else { milli } })
    }

    /// Thousandths, saturating: the unit of CPU.
    pub fn milli(self) -> i64 {
        i64::try_from(self.milli).unwrap_or(i64::MAX)
    }

    /// Whole units, rounded up: the unit of bytes and counts.
    pub fn value(self) -> i64 {
        i64::try_from(div_up(self.milli, 1000)).unwrap_or(i64::MAX)
    }

    pub fn is_negative(self) -> bool {
        self.milli < 0
    }

    /// True for whole units: what counts of devices and the like must be.
    pub fn is_whole(self) -> bool {
        self.milli % 1000 == 0
    }
}

/// The one text of a quantity, as Kubernetes stores it: `0.5` is `500m`, `1024Mi` is `1Gi`, `1000` is
/// `1k`. The suffix family is the writer's. `None` when the text is not a quantity.
pub fn canonical(text: &str) -> Option<String> {
    Quantity::parse(text)?;
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let digits_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    if mantissa == 0 {
        return Some("0".into());
    }
    let binary = BINARY.iter().find(|(name, _)| *name == suffix).map(|(_, factor)| *factor);
    if let Some(factor) = binary.filter(|factor| mantissa * factor >= 1024 * scale) {
        // Whole, and with the largest suffix that keeps it so.
        let mut value = div_up(mantissa * factor, scale);
        let mut steps = 0;
        while value % 1024 == 0 && steps < BINARY.len() {
            value /= 1024;
            steps += 1;
        }
        let name = if steps == 0 { "" } else { BINARY[steps - 1].0 };
        return Some(format!("{sign}{value}{name}"));
    }
    let exponent = match (binary, suffix) {
        (Some(_), _) | (None, "") => 0,
        (None, suffix) => match DECIMAL.iter().find(|(name, _)| *name == suffix) {
            Some((_, exponent)) => *exponent,
            None => suffix[1..].parse().ok()?,
        },
    };
    let mantissa = mantissa.checked_mul(binary.unwrap_or(1))?;
    // mantissa * 10^power, with nothing finer than a nano.
    let (mut value, mut power) = (mantissa, exponent - i32::try_from(fraction.len()).ok()?);
    if power < -9 {
        value = div_up(value, 10_i128.checked_pow(power.abs_diff(-9))?);
        power = -9;
    }
    while value % 10 == 0 {
        value /= 10;
        power += 1;
    }
    while power.rem_euclid(3) != 0 {
        value = value.checked_mul(10)?;
        power -= 1;
    }
    let writes_exponents = binary.is_none() && suffix.len() > 1;
    let name = match DECIMAL.iter().find(|(_, exponent)| *exponent == power) {
        _ if power == 0 => String::new(),
        Some((name, _)) if !writes_exponents => (*name).to_string(),
        _ => format!("e{power}"),
    };
    Some(format!("{sign}{value}{name}"))
}

fn div_up(a: i128, b: i128) -> i128 {
    a.div_euclid(b) + i128::from(a.rem_euclid(b) != 0)
}

impl fmt::Display for Quantity {
    /// Canonical decimal text; binary suffixes where the value is a whole multiple of 1 Ki.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 != 0 {
            return write!(f, "{}m", self.milli);
        }
        let value = self.milli / 1000;
        let binary = BINARY.iter().rev().find(|(_, factor)| value != 0 && value % factor == 0);
        match binary {
            Some((suffix, factor)) => write!(f, "{}{suffix}", value / factor),
            None => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let milli = |text| Quantity::parse(text).map(Quantity::milli);
        for (text, want) in [
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("1.5", Some(1500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("2e3", Some(2_000_000)),
            ("1E", Some(i64::MAX)),
            ("1n", Some(1)),
            ("-1k", Some(-1_000_000)),
            ("", None),
            ("1x", None),
            ("1.2.3", None),
            ("Gi", None),
            ("1 Gi", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(milli(text), want, "{text}");
        }
    }

    #[test]
    fn one_text_per_quantity() {
        for (text, want) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("128974848", "128974848"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1.5Ki", "1536"),
            ("0.5Ki", "512"),
            ("2e3", "2e3"),
            ("1E3", "1e3"),
            ("0", "0"),
            ("0Gi", "0"),
            ("-1.5", "-1500m"),
            ("+3", "3"),
            ("1E", "1E"),
            ("1.0000000001", "1000000001n"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(want), "{text}");
        }
        assert_eq!(canonical("1x"), None);
    }

    #[test]
    fn text() {
        for (text, want) in [("0.5", "500m"), ("1024", "1Ki"), ("64Mi", "64Mi"), ("1000", "1000"), ("0", "0")] {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), want);
        }
    }
}
