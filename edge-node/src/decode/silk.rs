//! The speech coder's part of a packet alone: all that there is below 8 kHz.
//!
//! A browser sends hybrid packets (RFC 6716 section 3.2.2): SILK up to 8 kHz, and above that CELT, which a VAD at 16 kHz never
//! hears but libopus decodes all the same, at about the same cost. SILK comes first in the frame and needs nothing of
//! what follows it, so here it is decoded by libopus' own function for it.
//!
//! That function is not part of libopus' interface. So it is used only of the very version whose headers are copied
//! below ([`VERSION`]); with any other, [`Silk::new`] is `None`, and packets are decoded whole.
//!
//! What is heard is what the whole decoder makes of it, as a test shows. What is missing is the 5 ms of CELT that smooth a
//! change of coder or bandwidth (RFC 6716 section 4.5.1).
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    mem::zeroed,
    ptr,
    sync::LazyLock,
    time::Duration,
};

use super::SAMPLE_RATE;
use crate::toc::OpusPacket;

/// The libopus whose internals these are; built for floating point, without deep PLC, DRED and OSCE.
const VERSION: &str = "libopus 1.6.1";
/// Samples of the longest that one call decodes: 20 ms.
const MAX_STEP: usize = 320;

/// `silk_DecControlStruct` of `silk/control.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct Control {
    api_channels: i32,
    internal_channels: i32,
    api_rate: i32,
    internal_rate: i32,
    payload_ms: c_int,
    pitch_lag: c_int,
    deep_plc: c_int,
}

/// `ec_ctx` of `celt/entcode.h`.
#[repr(C)]
struct RangeDecoder {
    buf: *const u8,
    storage: u32,
    end_offs: u32,
    end_window: u32,
    nend_bits: c_int,
    nbits_total: c_int,
    offs: u32,
    rng: u32,
    val: u32,
    ext: u32,
    rem: c_int,
    error: c_int,
}

// `silk/API.h` and `celt/entdec.h`; `opus_res` is `float`.
unsafe extern "C" {
    fn silk_Get_Decoder_Size(bytes: *mut c_int) -> c_int;
    fn silk_InitDecoder(state: *mut c_void) -> c_int;
    fn silk_Decode(
        state: *mut c_void,
        control: *mut Control,
        lost: c_int,
        new_packet: c_int,
        from: *mut RangeDecoder,
        out: *mut f32,
        samples: *mut i32,
        arch: c_int,
    ) -> c_int;
    fn ec_dec_init(this: *mut RangeDecoder, buf: *const u8, storage: u32);
}

/// What a frame is to be made from.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
enum From {
    Itself = 0,
    Nothing = 1,
    Redundancy = 2,
}

/// SILK's decoder to 16 kHz: of one channel or two, as the packets are.
#[derive(Debug)]
pub(super) struct Silk {
    /// In words, for its alignment.
    state: Box<[u64]>,
    fresh: &'static [u64],
    control: Control,
}

/// The state of one that has heard nothing, which has no pointers into itself. It is copied, since libopus, to make or reset
/// one, asks the processor what it can do; a virtual machine takes tens of microseconds to answer.
static FRESH: LazyLock<Option<Box<[u64]>>> = LazyLock::new(|| (opus::version() == VERSION).then(fresh).flatten());

fn fresh() -> Option<Box<[u64]>> {
    let mut bytes = 0;
    // SAFETY: writes one int.
    let asked = unsafe { silk_Get_Decoder_Size(&mut bytes) };
    let words = usize::try_from(bytes).ok().filter(|_| asked == 0)?.div_ceil(size_of::<u64>());
    let mut state: Box<[u64]> = vec![0; words].into();
    // SAFETY: the state is as long as was asked for, and aligned for anything in it.
    (unsafe { silk_InitDecoder(state.as_mut_ptr().cast()) } == 0).then_some(state)
}

impl Silk {
    /// One that has heard nothing, if this libopus is the one that is known.
    pub(super) fn new() -> Option<Self> {
        let control =
            Control { api_channels: 1, internal_channels: 1, api_rate: SAMPLE_RATE as i32, ..Control::default() };
        FRESH.as_deref().map(|fresh| Self { state: fresh.into(), fresh, control })
    }

    /// Forgets what it has heard.
    pub(super) fn reset(&mut self) {
        (self.control.internal_rate, self.control.api_channels) = (0, 1);
        self.state.copy_from_slice(self.fresh);
    }

    /// Whether what it decoded last was of two channels.
    pub(super) fn is_stereo(&self) -> bool {
        self.channels() == 2
    }

    /// Decodes `packet`, which must not be one of CELT, into `pcm`, samples of two channels in turn; returns how many samples of
    /// each channel that gave. `None` if SILK finds it corrupt.
    pub(super) fn decode(&mut self, packet: &OpusPacket<'_>, pcm: &mut [i16]) -> Option<usize> {
        self.prepare(packet)?;
        let (each, mut filled) = (samples(packet.frame_duration()) * self.channels(), 0);
        for frame in packet.frames() {
            let out = pcm.get_mut(filled..filled + each)?;
            // An empty frame was not sent (RFC 6716 section 3.2.1), and libopus reads one of a byte as such.
            match frame.len() {
                0 | 1 => self.conceal(out)?,
                _ => self.frame(frame, From::Itself, out)?,
            }
            filled += each;
        }
        Some(filled / self.channels())
    }

    /// Fills `pcm` with what was lost before `next`: with the copy that its first frame carries (LBRR) and, before that, a
    /// guess. `None` if that frame is longer, or corrupt.
    pub(super) fn recover(&mut self, next: &OpusPacket<'_>, pcm: &mut [i16]) -> Option<()> {
        let channels = if next.stereo { 2 } else { 1 };
        let guessed = pcm.len().checked_sub(samples(next.frame_duration()) * channels)?;
        let frame = next.frames().next().filter(|frame| frame.len() > 1)?;
        let (before, copied) = pcm.split_at_mut(guessed);
        // What was before may have been of another number of channels.
        self.control.api_channels = channels as i32;
        self.conceal(before)?;
        self.prepare(next)?;
        self.frame(frame, From::Redundancy, copied)
    }

    /// Fills `pcm` with a guess.
    pub(super) fn conceal(&mut self, pcm: &mut [i16]) -> Option<()> {
        if self.control.internal_rate == 0 {
            pcm.fill(0);
            return Some(());
        }
        pcm.chunks_mut(MAX_STEP * self.channels()).try_for_each(|part| self.frame(&[], From::Nothing, part))
    }

    /// Sets what the header says.
    fn prepare(&mut self, packet: &OpusPacket<'_>) -> Option<()> {
        self.control.internal_rate = packet.silk_rate()? as i32;
        self.control.internal_channels = if packet.stereo { 2 } else { 1 };
        self.control.api_channels = self.control.internal_channels;
        Some(())
    }

    fn channels(&self) -> usize {
        if self.control.api_channels == 2 { 2 } else { 1 }
    }

    /// One frame: 10 to 60 ms, in steps of at most 20.
    fn frame(&mut self, frame: &[u8], from: From, pcm: &mut [i16]) -> Option<()> {
        let arch = 0; // Plain C: SILK's decoder has next to nothing else.
        // No other lengths exist to SILK, which may end the process over one; what is too much is not taken.
        let channels = self.channels();
        self.control.payload_ms = match pcm.len() / channels {
            0..=160 => 10,
            161..=320 => 20,
            321..=640 => 40,
            _ => 60,
        };
        // SAFETY: integers and a pointer that is not used before `ec_dec_init` has set it.
        let mut range: RangeDecoder = unsafe { zeroed() };
        if !matches!(from, From::Nothing) {
            // SAFETY: `range` refers to `frame`, and both live to the end of this function.
            unsafe { ec_dec_init(&mut range, frame.as_ptr(), frame.len() as u32) };
        }
        let mut done = 0;
        while done < pcm.len() {
            let mut step = [0f32; 2 * MAX_STEP];
            let mut samples = 0;
            // SAFETY: all point to what libopus expects there; it writes at most 20 ms of two channels.
            let failed = unsafe {
                let (state, control) = (self.state.as_mut_ptr().cast(), ptr::from_mut(&mut self.control));
                let first = c_int::from(done == 0);
                silk_Decode(state, control, from as c_int, first, &mut range, step.as_mut_ptr(), &mut samples, arch)
            };
            let samples = usize::try_from(samples).ok().filter(|n| failed == 0 && (1..=MAX_STEP).contains(n))?;
            let samples = samples * channels;
            for (to, from) in pcm[done..].iter_mut().zip(&step[..samples]) {
                *to = (from * 32_768.0) as i16;
            }
            done += samples;
        }
        Some(())
    }
}

/// So long, at 16 kHz.
fn samples(time: Duration) -> usize {
    (time.as_micros() as u64 * u64::from(SAMPLE_RATE) / 1_000_000) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_SAMPLES: usize = 1920;

    #[test]
    fn a_guess_may_be_of_any_length() {
        let mut silk = Silk::new().expect("the libopus that is known");
        let mut pcm = [0; MAX_SAMPLES];
        for length in (0..=MAX_SAMPLES).step_by(40).chain([1, 159, 161, 319, 321]) {
            let packet = [9 << 3, 0x80, 7, 1, 9, 200, 3];
            let packet = OpusPacket::parse(&packet).expect("20 ms of wideband");
            assert!(silk.decode(&packet, &mut pcm[..]).is_some());
            assert_eq!(silk.conceal(&mut pcm[..length]), Some(()), "{length}");
        }
    }
}
