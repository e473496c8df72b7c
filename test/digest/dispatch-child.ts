// Run by dispatch.test.ts under one LUNSYNC_CPU: says which kernels are chosen and what they make of fixed
// messages.
import { aesBlocks, crc32c, digestKernels, digestMessages } from "../../src/platform/native-digest.ts";
import { bytesFrom, numbersFrom } from "./reference.ts";

const next = numbersFrom(42);
const messages = Array.from({ length: 37 }, () => bytesFrom(next, 1999));
const kernels = digestKernels();
const digests = kernels.map((_, number) => digestMessages(number, null, messages, 256).toString("hex"));
const keys = bytesFrom(next, 16 * 9);
const aes = [false, true].map((decode) =>
  aesBlocks(keys, messages[0]!.subarray(0, 16 * 9), decode).toString("hex"),
);
process.stdout.write(JSON.stringify({ kernels, digests, aes, crc: crc32c(messages[0]!) }));
