//! Ten thousand ways to write a path: seeds of a granted and an ungranted path, bent by every trick that servers disagree on.

/// A small, seeded generator (SplitMix64): the same lines in every run.
#[derive(Debug)]
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const SEEDS: &[&str] = &[
    "/v1/users/7",
    "/v1/users/alice",
    "/v1/admin/7",
    "/v1/admin",
    "/admin",
    "/v1/users",
    "/v1/users/7/keys",
    "/v2/users/7",
    "/",
];

const INSERTS: &[&[u8]] = &[
    b"/",
    b"//",
    b"/./",
    b"/../",
    b"/..",
    b"/.",
    b"%2f",
    b"%2F",
    b"%5c",
    b"\\",
    b"%2e",
    b"%2e%2e",
    b"%2e%2e%2f",
    b"..%2f",
    b"%252e",
    b"%252f",
    b"%00",
    b"%0a",
    b"%0d%0a",
    b"%09",
    b";",
    b";a=b",
    b"/..;/",
    b"%3b",
    b"#",
    b"%23",
    b"?",
    b"?a=/../",
    b"%3f",
    b"%c0%af",
    b"%c0%ae",
    b"%e0%80%af",
    b"%uff0e",
    b"%ff",
    b"%",
    b"%4",
    b"%zz",
    b"%41",
    b"%75",
    b"*",
    b"**",
    b"{id}",
    b"+",
    b"%20",
    b".",
    b"~",
    b"@",
    b":",
    b"//localhost",
    b"http://localhost",
    b"\xc3\xa9",
    b"\xff",
    b"%C3%A9",
    b"&",
    b"=",
    b"!",
    b"'",
    b"(",
    b"|",
    b"^",
    b"`",
];

/// One request target that is probably not canonical.
pub fn bent(rng: &mut Seeded) -> Vec<u8> {
    let mut target = rng.pick(SEEDS).as_bytes().to_vec();
    for _ in 0..=rng.below(3) {
        let at = rng.below(target.len() + 1);
        match rng.below(6) {
            0..=2 => drop(target.splice(at..at, rng.pick(INSERTS).iter().copied())),
            3 => encode_one(&mut target, at),
            4 => flip_case(&mut target, at),
            _ => {
                let other = rng.pick(SEEDS).as_bytes();
                let up = rng.pick(&[&b"/.."[..], b"/%2e%2e", b"/.%2e", b"\\..", b"/..;"]);
                target.extend_from_slice(&up.repeat(1 + rng.below(3)));
                target.extend_from_slice(other);
            }
        }
    }
    target
}

/// A spelling that is canonical and granted by `GET /v1/users/{id}`.
pub fn canonical(rng: &mut Seeded) -> Vec<u8> {
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_~";
    let mut target = b"/v1/users/".to_vec();
    for _ in 0..=rng.below(12) {
        target.push(rng.pick(letters));
    }
    if rng.below(4) == 0 {
        target.extend_from_slice(b"?q=%2f..;x");
    }
    target
}

fn encode_one(target: &mut Vec<u8>, at: usize) {
    if let Some(byte) = target.get(at).copied() {
        target.splice(at..=at, format!("%{byte:02x}").into_bytes());
    }
}

fn flip_case(target: &mut [u8], at: usize) {
    if let Some(byte) = target.get_mut(at) {
        *byte = if byte.is_ascii_lowercase() {
            byte.to_ascii_uppercase()
        } else {
            byte.to_ascii_lowercase()
        };
    }
}

/// What the most lenient server could take the path for: decoded until nothing changes, parameters cut, dots resolved.
pub fn most_lenient_reading(path: &[u8]) -> String {
    let path = path
        .split(|byte| *byte == b'?' || *byte == b'#')
        .next()
        .unwrap_or_default();
    let mut text = path.to_vec();
    loop {
        let decoded = decode_once(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    let text = String::from_utf8_lossy(&text)
        .replace('\\', "/")
        .to_ascii_lowercase();
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            plain => segments.push(plain),
        }
    }
    format!("/{}", segments.join("/"))
}

fn decode_once(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escape = (*first == b'%').then(|| tail.get(..2)).flatten();
        let value =
            escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match value {
            Some(value) => {
                decoded.push(value);
                rest = &tail[2..];
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    decoded
}

/// Whether `GET /v1/users/{id}` means this path, however it is read.
pub fn is_granted(path: &[u8]) -> bool {
    let reading = most_lenient_reading(path);
    let mut parts = reading.trim_start_matches('/').split('/');
    (parts.next(), parts.next()) == (Some("v1"), Some("users"))
        && parts.next().is_some()
        && parts.next().is_none()
}
