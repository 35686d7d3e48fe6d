import { createHmac, timingSafeEqual } from 'crypto';

/** Older messages could be repetitions by somebody else. */
const TOLERANCE_SECONDS = 300;

/** Whether a message is from the service, by https://www.standardwebhooks.com. */
export function isAuthentic(
	headers: Record<string, unknown>,
	body: Buffer,
	secret: string,
	nowSeconds: number,
): boolean {
	const text = (name: string) => String(headers[name] ?? '');
	const timestamp = Number(text('webhook-timestamp'));
	if (secret === '' || !(Math.abs(nowSeconds - timestamp) <= TOLERANCE_SECONDS)) return false;
	const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
	const signed = Buffer.concat([Buffer.from(`${text('webhook-id')}.${text('webhook-timestamp')}.`), body]);
	const expected = Buffer.from(`v1,${createHmac('sha256', key).update(signed).digest('base64')}`);
	return text('webhook-signature')
		.split(' ')
		.map((given) => Buffer.from(given))
		.some((given) => given.length === expected.length && timingSafeEqual(given, expected));
}
