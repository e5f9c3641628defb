//! Exact decimals: JSON numbers and strings to integers in minor units and back, with no float on the way.

use serde_json::value::RawValue;

/// Why a decimal was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDecimal {
    #[error("is not a decimal number")]
    NotANumber,
    #[error("is negative")]
    Negative,
    #[error("has more than {scale} decimals")]
    TooPrecise { scale: u8 },
    #[error("is too large")]
    TooLarge,
}

/// Reads JSON number grammar (`-1.50`, `1e2`) as an integer of `10^-scale` units, exactly.
///
/// # Errors
/// [`BadDecimal`]; a value that needs more decimals than `scale` is refused, never rounded.
pub fn parse(text: &str, scale: u8) -> Result<u64, BadDecimal> {
    let (text, negative) = text.strip_prefix('-').map_or((text, false), |t| (t, true));
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], parse_exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((w, f)) if !f.is_empty() => (w, f),
        Some(_) => return Err(BadDecimal::NotANumber),
        None => (mantissa, ""),
    };
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(BadDecimal::NotANumber);
    }
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|b| *b == b'0').collect();
    let zeros = digits.iter().rev().take_while(|b| **b == b'0').count();
    let digits = &digits[..digits.len() - zeros];
    if digits.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err(BadDecimal::Negative);
    }
    // A body is at most 64 KiB, so lengths fit; the exponent was clamped far inside i64.
    let shift = exponent - fraction.len() as i64 + zeros as i64 + i64::from(scale);
    if shift < 0 {
        return Err(BadDecimal::TooPrecise { scale });
    }
    if digits.len() as i64 + shift > 20 {
        return Err(BadDecimal::TooLarge);
    }
    let value = digits.iter().fold(0u128, |n, d| n * 10 + u128::from(d - b'0')) * 10u128.pow(shift as u32);
    u64::try_from(value).map_err(|_| BadDecimal::TooLarge)
}

fn parse_exponent(text: &str) -> Result<i64, BadDecimal> {
    let (digits, sign) = match text.as_bytes().first() {
        Some(b'-') => (&text[1..], -1),
        Some(b'+') => (&text[1..], 1),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadDecimal::NotANumber);
    }
    let clamped = digits.bytes().fold(0i64, |n, d| (n * 10 + i64::from(d - b'0')).min(1_000_000_000));
    Ok(sign * clamped)
}

/// Reads a JSON number or a JSON string that holds one.
///
/// # Errors
/// [`BadDecimal`], for any other JSON value too.
pub fn parse_json(raw: &RawValue, scale: u8) -> Result<u64, BadDecimal> {
    let text = raw.get();
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => parse(inner, scale),
        None => parse(text, scale),
    }
}

/// Writes minor units as a JSON number: `25050` at 2 is `250.50`.
pub fn write(value: u64, scale: u8, into: &mut impl std::fmt::Write) {
    let unit = 10u64.pow(u32::from(scale));
    // Writing to memory cannot fail.
    let _ = if scale == 0 {
        write!(into, "{value}")
    } else {
        write!(into, "{}.{:0width$}", value / unit, value % unit, width = usize::from(scale))
    };
}

/// A price as serde sees it: a JSON number with all its decimals.
pub fn to_json(value: u64, scale: u8) -> Box<RawValue> {
    let mut text = String::with_capacity(24);
    write(value, scale, &mut text);
    // Digits with a point between them are JSON.
    RawValue::from_string(text).unwrap_or_default()
}

/// A sum of money as serde sees it: it may be larger than any price.
pub fn sum_to_json(value: u128, scale: u8) -> Box<RawValue> {
    let Ok(small) = u64::try_from(value) else {
        let (digits, scale) = (value.to_string(), usize::from(scale));
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let point = if scale == 0 { "" } else { "." };
        return RawValue::from_string(format!("{whole}{point}{fraction}")).unwrap_or_default();
    };
    to_json(small, scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exact_forms() {
        for (text, scale, value) in [
            ("250.50", 2, 25_050),
            ("250.5", 2, 25_050),
            ("250.5000", 2, 25_050),
            ("1e2", 2, 10_000),
            ("1E+2", 0, 100),
            ("2505e-1", 2, 25_050),
            ("0.01", 2, 1),
            ("0", 2, 0),
            ("-0.0", 2, 0),
            ("0e999999999999999999", 2, 0),
            ("10.0", 0, 10),
            ("18446744073709551615", 0, u64::MAX),
        ] {
            assert_eq!(parse(text, scale), Ok(value), "{text}");
        }
    }

    #[test]
    fn refused_forms() {
        use BadDecimal::{Negative, NotANumber, TooLarge, TooPrecise};
        for (text, why) in [
            ("-1", Negative),
            ("1e309", TooLarge),
            ("1e99999999999999999999999", TooLarge),
            ("18446744073709551616", TooLarge),
            ("250.505", TooPrecise { scale: 2 }),
            ("1e-309", TooPrecise { scale: 2 }),
            ("NaN", NotANumber),
            ("Infinity", NotANumber),
            ("", NotANumber),
            (".", NotANumber),
            ("1.", NotANumber),
            (".5", NotANumber),
            ("1e", NotANumber),
            ("+1", NotANumber),
            (" 1", NotANumber),
            ("0x10", NotANumber),
            ("1_000", NotANumber),
            ("1.2.3", NotANumber),
        ] {
            assert_eq!(parse(text, 2), Err(why), "{text:?}");
        }
    }

    #[test]
    fn sums_may_be_larger_than_prices() {
        for (value, scale, text) in [(25_050, 2, "250.50"), (u128::from(u64::MAX) * 10, 3, "184467440737095516.150")] {
            assert_eq!(sum_to_json(value, scale).get(), text);
        }
        assert_eq!(sum_to_json(u128::from(u64::MAX) + 1, 0).get(), "18446744073709551616");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value: u64, scale in 0u8..=9) {
            let mut text = String::new();
            write(value, scale, &mut text);
            prop_assert_eq!(parse(&text, scale), Ok(value));
        }
    }
}
