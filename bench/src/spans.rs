//! Durations that the agent logged.

use serde_json::Value;

/// One field of each of an agent's lines with this message, in milliseconds, in their order.
pub fn of(log: &str, message: &str, field: &str) -> Vec<f64> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let said = lines.filter(|line| line.get("message").and_then(Value::as_str) == Some(message));
    said.filter_map(|line| duration(line.get(field)?.as_str()?)).collect()
}

/// A duration as `{:?}` writes it, in milliseconds.
pub fn duration(text: &str) -> Option<f64> {
    let units = [("ns", 1e-6), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let (number, scale) = units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_from_a_log() {
        let log = r#"{"message":"domain started","ours":"12.5ms","libvirt":"1.25s"}
            {"message":"another","ours":"1ms"}
            not json
            {"ours":"900µs","message":"domain started"}"#;
        assert_eq!(of(log, "domain started", "ours"), [12.5, 0.9]);
        assert_eq!(of(log, "domain started", "libvirt"), [1250.0]);
        assert_eq!(duration("x"), None);
    }
}
