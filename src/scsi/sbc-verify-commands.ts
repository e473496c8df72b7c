// CDBs of the block commands that compare or combine what is written with what is there (SBC-3/SBC-4).
import { bits, constant, flag, layout, u8, u16, u32, u64 } from "../base/layout.ts";

const protect = bits(1, 7, 3);
const dpo = flag(1, 4);
const fua = flag(1, 3);
/** 00b: no comparison; 01b: with the data sent; 11b: with one block that is sent. */
const bytchk = bits(1, 2, 2);

export const verify10 = layout({
  name: "VERIFY (10)",
  source: "SBC-3, 5.29",
  bytes: 10,
  fields: {
    operationCode: constant(u8(0), 0x2f),
    protect,
    dpo,
    bytchk,
    logicalBlockAddress: u32(2),
    groupNumber: bits(6, 4, 5),
    length: u16(7),
    control: u8(9),
  },
});

export const verify12 = layout({
  name: "VERIFY (12)",
  source: "SBC-3, 5.30",
  bytes: 12,
  fields: {
    operationCode: constant(u8(0), 0xaf),
    protect,
    dpo,
    bytchk,
    logicalBlockAddress: u32(2),
    length: u32(6),
    groupNumber: bits(10, 4, 5),
    control: u8(11),
  },
});

export const verify16 = layout({
  name: "VERIFY (16)",
  source: "SBC-3, 5.31",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x8f),
    protect,
    dpo,
    bytchk,
    logicalBlockAddress: u64(2),
    length: u32(10),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const writeAndVerify10 = layout({
  name: "WRITE AND VERIFY (10)",
  source: "SBC-3, 5.36",
  bytes: 10,
  fields: { ...verify10.fields, operationCode: constant(u8(0), 0x2e) },
});

export const writeAndVerify12 = layout({
  name: "WRITE AND VERIFY (12)",
  source: "SBC-3, 5.37",
  bytes: 12,
  fields: { ...verify12.fields, operationCode: constant(u8(0), 0xae) },
});

export const writeAndVerify16 = layout({
  name: "WRITE AND VERIFY (16)",
  source: "SBC-3, 5.38",
  bytes: 16,
  fields: { ...verify16.fields, operationCode: constant(u8(0), 0x8e) },
});

export const compareAndWrite = layout({
  name: "COMPARE AND WRITE",
  source: "SBC-3, 5.2",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x89),
    protect,
    dpo,
    fua,
    logicalBlockAddress: u64(2),
    length: u8(13),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const orWrite16 = layout({
  name: "ORWRITE (16)",
  source: "SBC-3, 5.7",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x8b),
    protect,
    dpo,
    fua,
    logicalBlockAddress: u64(2),
    length: u32(10),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});

export const writeAtomic16 = layout({
  name: "WRITE ATOMIC (16)",
  source: "SBC-4, 5.43",
  bytes: 16,
  fields: {
    operationCode: constant(u8(0), 0x9c),
    protect,
    dpo,
    fua,
    logicalBlockAddress: u64(2),
    atomicBoundary: u16(10),
    length: u16(12),
    groupNumber: bits(14, 4, 5),
    control: u8(15),
  },
});
