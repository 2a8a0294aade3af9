//! Values as bytes: what a stream of state is made of. Numbers are little-endian. Reading never takes more memory than there
//! are bytes, and each value that can be wrong is checked where it is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Damaged;

/// Something that can be written and read again.
pub trait Field: Sized {
    /// Adds it to `out`.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes it from the front of `from`.
    ///
    /// # Errors
    /// [`Damaged`].
    fn read(from: &mut &[u8]) -> Result<Self, Damaged>;
}

/// Whether what is written of it can be read again: what cannot must not spoil the rest.
pub fn is_readable<T: Field>(value: &T) -> bool {
    let mut bytes = Vec::new();
    value.write(&mut bytes);
    let mut rest = bytes.as_slice();
    T::read(&mut rest).is_ok() && rest.is_empty()
}

/// Makes a [`Field`] of a structure: its fields in this order, so that writing and reading cannot differ.
macro_rules! fields {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::migration::fields::Field for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $($crate::migration::fields::Field::write(&self.$field, out);)+
            }

            fn read(from: &mut &[u8]) -> Result<Self, $crate::migration::Damaged> {
                Ok(Self { $($field: $crate::migration::fields::Field::read(from)?,)+ })
            }
        }
    };
}
pub(crate) use fields;

/// The next bytes.
fn take<'a>(from: &mut &'a [u8], count: usize) -> Result<&'a [u8], Damaged> {
    let (taken, rest) = from.split_at_checked(count).ok_or(Damaged::Short)?;
    *from = rest;
    Ok(taken)
}

impl<const N: usize> Field for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        take(from, N)?.first_chunk().copied().ok_or(Damaged::Short)
    }
}

impl Field for u8 {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        <[u8; 1]>::read(from).map(|[byte]| byte)
    }
}

impl Field for u16 {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_le_bytes().write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        Field::read(from).map(Self::from_le_bytes)
    }
}

impl Field for u32 {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_le_bytes().write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        Field::read(from).map(Self::from_le_bytes)
    }
}

impl Field for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        match u8::read(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged::Value("yes or no")),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        bool::read(from)?.then(|| T::read(from)).transpose()
    }
}

impl<T: Field, U: Field> Field for (T, U) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        Ok((T::read(from)?, U::read(from)?))
    }
}

impl Field for [u32; 5] {
    fn write(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|value| value.write(out));
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let mut all = [0; 5];
        for value in &mut all {
            *value = u32::read(from)?;
        }
        Ok(all)
    }
}

impl Field for Ipv4Addr {
    fn write(&self, out: &mut Vec<u8>) {
        self.octets().write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        <[u8; 4]>::read(from).map(Self::from)
    }
}

impl Field for Ipv6Addr {
    fn write(&self, out: &mut Vec<u8>) {
        self.octets().write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        <[u8; 16]>::read(from).map(Self::from)
    }
}

impl Field for IpAddr {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => {
                out.push(4);
                address.write(out);
            }
            Self::V6(address) => {
                out.push(6);
                address.write(out);
            }
        }
    }

    /// IPv4 in the guise of IPv6 is nothing that flows know.
    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        match u8::read(from)? {
            4 => Ipv4Addr::read(from).map(Self::V4),
            6 => {
                let address = Ipv6Addr::read(from)?;
                if address.to_ipv4_mapped().is_some() { Err(Damaged::Value("an address")) } else { Ok(address.into()) }
            }
            _ => Err(Damaged::Value("an address family")),
        }
    }
}

/// Without zones: those are another machine's.
impl Field for SocketAddr {
    fn write(&self, out: &mut Vec<u8>) {
        self.ip().write(out);
        self.port().write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        Ok(Self::new(Field::read(from)?, Field::read(from)?))
    }
}

impl Field for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).write(out);
        out.extend_from_slice(self);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let length = u32::read(from)?;
        Ok(take(from, length as usize)?.to_vec())
    }
}

impl Field for String {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_bytes().to_vec().write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let text = Self::from_utf8(Field::read(from)?).map_err(|_| Damaged::Value("a text"))?;
        if text.contains(char::is_control) { Err(Damaged::Value("a text")) } else { Ok(text) }
    }
}

#[cfg(test)]
mod proofs;
