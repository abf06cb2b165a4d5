//! Which values an option takes. Each reader says, for people, what is wrong and how the value is written.
//!
//! A value that passes here must also be one with which the sidecar starts: what the sidecar would refuse is refused
//! when the pod is made, where its author sees it.

/// Services of one sidecar.
const SERVICES_MAX: usize = 64;
const SERVICE_MAX: usize = 253;

/// A value as read, or what is wrong with it.
pub(crate) type Read<T> = Result<T, String>;

/// The nearest of `known` to a misspelt `name`.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Nobody misspells this much, and the comparison takes the product of both lengths.
    if name.len() > 64 {
        return None;
    }
    let bound = 2.max(name.len() / 3);
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, known)| known)
}

pub(crate) fn boolean(text: &str) -> Read<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("write true or false, in quotes".to_owned()),
    }
}

pub(crate) fn one_of(text: &str, known: &[&str]) -> Read<String> {
    if known.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(match nearest(text, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("it must be one of {}", known.join(", ")),
    })
}

/// Comma-separated service names, each as the sidecar's `--service` takes it.
pub(crate) fn services(text: &str) -> Read<Vec<String>> {
    let services: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if services.len() > SERVICES_MAX {
        return Err(format!(
            "one sidecar serves at most {SERVICES_MAX} services"
        ));
    }
    match services.iter().find(|service| !is_service(service)) {
        Some(service) => Err(format!(
            "{service:?} is no service name: 1 to {SERVICE_MAX} of a-z, 0-9, '.' and '-', with a letter or digit \
             at both ends; several are separated by commas"
        )),
        None => Ok(services),
    }
}

pub(crate) fn is_service(text: &str) -> bool {
    is_dns_name(text, SERVICE_MAX)
}

/// Lower-case letters, digits, `-` and `.`, with a letter or digit at both ends.
fn is_dns_name(text: &str, most: usize) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.len() <= most
        && bytes
            .iter()
            .all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
}

pub(crate) fn object_name(text: &str) -> Read<String> {
    if is_dns_name(text, 253) {
        Ok(text.to_owned())
    } else {
        Err("it must be the name of a ConfigMap: a-z, 0-9, '-' and '.'".to_owned())
    }
}

pub(crate) fn container_name(text: &str) -> Read<String> {
    if is_dns_name(text, 63) && !text.contains('.') {
        Ok(text.to_owned())
    } else {
        Err("it must be the name of a container: a-z, 0-9 and '-'".to_owned())
    }
}

pub(crate) fn url(text: &str) -> Read<String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let (host, port) = match rest.map(|rest| rest.trim_end_matches('/')) {
        // An IPv6 address has colons of its own.
        Some(rest) if rest.starts_with('[') && rest.ends_with(']') => (rest, None),
        Some(rest) => match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
        None => ("", None),
    };
    let host_fits = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if host_fits && port_fits {
        Ok(text.to_owned())
    } else {
        Err("write it like https://jitgate.jitgate-system.svc:7400".to_owned())
    }
}

/// Comma-separated audiences of tokens.
pub(crate) fn audiences(text: &str) -> Read<Vec<String>> {
    let audiences: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let fits =
        |audience: &String| !audience.is_empty() && audience.bytes().all(|b| b.is_ascii_graphic());
    if audiences.iter().all(fits) {
        Ok(audiences)
    } else {
        Err("it must be one or more audiences without blanks, separated by commas".to_owned())
    }
}

/// `1s` to `24h`, as `--max-staleness` takes it.
pub(crate) fn staleness(text: &str) -> Read<String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let total = millis.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    if total.is_some_and(|total| (1_000..=86_400_000).contains(&total)) {
        Ok(text.to_owned())
    } else {
        Err("write a time from 1s to 24h, like 30s".to_owned())
    }
}

/// A log filter: a level, or `target=level` pairs.
pub(crate) fn log_filter(text: &str) -> Read<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let fits = |directive: &str| {
        let (target, level) = directive.rsplit_once('=').unwrap_or(("all", directive));
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
        !target.is_empty() && target.bytes().all(named) && LEVELS.contains(&level)
    };
    if text.split(',').all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "write a level ({}), or pairs like jitgate=debug,info",
            LEVELS.join(", ")
        ))
    }
}

/// A port that a process without privileges may listen on, and that Istio's proxy does not need.
pub(crate) fn port(text: &str) -> Read<u16> {
    const ISTIO: std::ops::RangeInclusive<u16> = 15_000..=15_090;
    match text.parse::<u16>() {
        Ok(port) if port >= 1_024 && !ISTIO.contains(&port) => Ok(port),
        _ => Err(
            "it must be a port from 1024 to 65535, and none of Istio's (15000 to 15090)".to_owned(),
        ),
    }
}

pub(crate) fn image(text: &str) -> Read<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"./:@_-".contains(&byte);
    if !text.is_empty() && text.len() <= 512 && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("write it like registry.example/jitgate-sidecar:1.2.3 or …@sha256:…".to_owned())
    }
}

/// A positive Kubernetes quantity, such as `10m`, `0.5` or `32Mi`.
pub(crate) fn quantity(text: &str) -> Read<String> {
    const SUFFIXES: [&str; 14] = [
        "", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let number = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, suffix) = text.split_at(number);
    let positive = number.parse::<f64>().is_ok_and(|number| number > 0.0);
    if positive && SUFFIXES.contains(&suffix) {
        Ok(text.to_owned())
    } else {
        Err("write a quantity like 10m, 0.5 or 32Mi".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_are_those_of_the_sidecar() {
        assert_eq!(services("shop, pay.v1").unwrap(), ["shop", "pay.v1"]);
        for bad in ["", "Shop", "shop,", "-shop", "shop.", "a b", "$(X)"] {
            assert!(services(bad).is_err(), "{bad}");
        }
        assert!(services(&vec!["a"; 65].join(",")).is_err());
    }

    #[test]
    fn urls_name_a_host_and_nothing_that_a_shell_or_the_kubelet_would_expand() {
        for good in [
            "https://jitgate.jitgate-system.svc:7400",
            "http://127.0.0.1:7400",
            "https://[fd00::1]:7400/",
            "https://[fd00::1]",
        ] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "jitgate:7400",
            "https://",
            "https://h:0",
            "https://h:99999",
            "https://h/path",
            "https://$(HOST)",
            "ftp://h",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn staleness_lies_between_a_second_and_a_day() {
        for good in ["1s", "1500ms", "24h", "30s"] {
            assert!(staleness(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "s",
            "0s",
            "999ms",
            "25h",
            "-1s",
            "30",
            "99999999999999999999h",
        ] {
            assert!(staleness(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quantities_are_positive_and_known() {
        for good in ["10m", "0.5", "32Mi", "1", "2k"] {
            assert!(quantity(good).is_ok(), "{good}");
        }
        for bad in ["", "0", "-1", "1KB", "Mi", "1.2.3", "ten"] {
            assert!(quantity(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_filter_has_known_levels() {
        assert!(log_filter("info").is_ok());
        assert!(log_filter("jitgate::sidecar=debug,warn").is_ok());
        for bad in ["", "loud", "jitgate=", "=debug", "info,"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_is_free_of_privileges_and_of_istio() {
        assert_eq!(port("15999"), Ok(15_999));
        for bad in ["0", "80", "15090", "70000", "x"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour_and_a_strange_one_none() {
        let known = ["service", "mode", "issuers"];
        assert_eq!(nearest("servcie", known), Some("service"));
        assert_eq!(nearest("issuer", known), Some("issuers"));
        assert_eq!(nearest("colour", known), None);
    }
}
