import type {
	IDataObject,
	IExecuteFunctions,
	IHttpRequestMethods,
	IHttpRequestOptions,
	ILoadOptionsFunctions,
	INodeExecutionData,
	IWebhookFunctions,
	JsonObject,
} from 'n8n-workflow';
import { NodeApiError, sleep } from 'n8n-workflow';

export type Context = IExecuteFunctions | ILoadOptionsFunctions | IWebhookFunctions;

/** A restart of the service takes less. */
const RETRY_MS = 120_000;
const PAUSE_MS = 3_000;
const CALL_MS = 120_000;
/** How soon a stopped execution is noticed. */
const STOP_MS = 250;

export interface Image {
	index: number;
	seed: number;
	width: number;
	height: number;
	media_type: string;
	url: string | null;
}

export interface Job {
	id: string;
	state: 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled';
	request: IDataObject;
	images: Image[];
	error: { code: string; detail: string; retryable: boolean } | null;
	[field: string]: unknown;
}

interface Answer {
	statusCode: number;
	headers: Record<string, string>;
	body: unknown;
}

export function hasEnded(job: Job): boolean {
	return ['succeeded', 'failed', 'cancelled'].includes(job.state);
}

/** Call the service, again and again while the failure may pass. The `expected` statuses are no failures. */
export async function call<T>(
	context: Context,
	method: IHttpRequestMethods,
	path: string,
	request: Partial<IHttpRequestOptions> = {},
	expected: number[] = [],
): Promise<T> {
	const giveUpAt = Date.now() + ('getExecutionCancelSignal' in context ? RETRY_MS : 0);
	for (;;) {
		const outcome = await attempt(context, method, path, request, expected);
		if (!('failure' in outcome)) return outcome.body as T;
		if (!outcome.mayPass || isStopped(context) || Date.now() >= giveUpAt) throw outcome.failure;
		await pause(context, PAUSE_MS);
	}
}

/** Wait, but only until somebody stops the execution. */
export async function pause(context: Context, milliseconds: number): Promise<void> {
	const end = Date.now() + milliseconds;
	while (Date.now() < end && !isStopped(context)) await sleep(Math.min(STOP_MS, end - Date.now()));
}

export function isStopped(context: Context): boolean {
	return 'getExecutionCancelSignal' in context && context.getExecutionCancelSignal()?.aborted === true;
}

/** A context for a last call. The requests of a stopped execution are aborted by its signal, which this one hides. */
export function afterStop(context: IExecuteFunctions): IExecuteFunctions {
	const hidden = 'getExecutionCancelSignal';
	return new Proxy(context, {
		has: (target, name) => name !== hidden && name in target,
		get: (target, name) => {
			const value: unknown = name === hidden ? undefined : Reflect.get(target, name);
			return typeof value === 'function' ? value.bind(target) : value;
		},
	});
}

async function attempt(
	context: Context,
	method: IHttpRequestMethods,
	path: string,
	request: Partial<IHttpRequestOptions>,
	expected: number[],
): Promise<{ body: unknown } | { failure: Error; mayPass: boolean }> {
	const { baseUrl } = await context.getCredentials<{ baseUrl: string }>('imagegenApi');
	const options: IHttpRequestOptions = {
		method,
		url: baseUrl.replace(/\/+$/, '') + path,
		json: true,
		timeout: CALL_MS,
		returnFullResponse: true,
		ignoreHttpStatusErrors: true,
		disableFollowRedirect: true,
		...request,
	};
	let answer: Answer;
	try {
		answer = (await context.helpers.httpRequestWithAuthentication.call(
			context,
			'imagegenApi',
			options,
		)) as Answer;
	} catch (error) {
		const problem = { message: `The service cannot be reached: ${(error as Error).message}` };
		return { failure: new NodeApiError(context.getNode(), problem), mayPass: true };
	}
	if (answer.statusCode < 300 || expected.includes(answer.statusCode)) return { body: answer.body };
	if (answer.statusCode < 400) {
		// A bucket with signed links: another host, which must not get the key.
		const url = answer.headers.location;
		return { body: await context.helpers.httpRequest({ url, encoding: options.encoding, timeout: CALL_MS }) };
	}
	return { failure: problemOf(context, answer), mayPass: mayPass(answer) };
}

/** A failed job stays failed, and its answers name it; answers of a proxy name none. */
function mayPass({ statusCode, headers }: Answer): boolean {
	return 'retry-after' in headers || (statusCode >= 502 && !('x-job-id' in headers));
}

function problemOf(context: Context, answer: Answer): NodeApiError {
	const body = parsed(answer.body);
	const message = String(body.detail ?? `The service responded with ${answer.statusCode}`);
	return new NodeApiError(context.getNode(), body as JsonObject, {
		message,
		description: body.code === undefined ? undefined : `Error code: ${String(body.code)}`,
		httpCode: String(answer.statusCode),
	});
}

function parsed(body: unknown): IDataObject {
	if (typeof body === 'object' && body !== null && !(body instanceof ArrayBuffer) && !Buffer.isBuffer(body)) {
		return body as IDataObject;
	}
	try {
		const text = typeof body === 'string' ? body : Buffer.from(body as ArrayBuffer).toString();
		return JSON.parse(text) as IDataObject;
	} catch {
		return {};
	}
}

/** One item for each image of a job that has succeeded. A withheld image has no file. */
export async function imageItems(
	context: IExecuteFunctions | IWebhookFunctions,
	job: Job,
	binaryProperty: string,
	item: number,
): Promise<INodeExecutionData[]> {
	return await Promise.all(
		job.images.map(async (image) => {
			const { prompt } = job.request;
			const json: IDataObject = { job: job.id, index: image.index, prompt, seed: image.seed };
			Object.assign(json, { width: image.width, height: image.height, model: job.model, label: job.label });
			const pairedItem = { item };
			if (image.url === null) {
				return { json: { ...json, problem: 'The safety checker withheld the image.' }, pairedItem };
			}
			const path = `/api/jobs/${job.id}/images/${image.index}`;
			const bytes = await call<ArrayBuffer>(context, 'GET', path, { json: false, encoding: 'arraybuffer' });
			const extension = image.media_type.replace('image/', '');
			const name = `${job.id}-${image.index}.${extension}`;
			const file = await context.helpers.prepareBinaryData(Buffer.from(bytes), name, image.media_type);
			return { json, binary: { [binaryProperty]: file }, pairedItem };
		}),
	);
}
