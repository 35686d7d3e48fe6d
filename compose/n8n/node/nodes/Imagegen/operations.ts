import { createHash } from 'crypto';
import type { IDataObject, IExecuteFunctions, INodeExecutionData } from 'n8n-workflow';
import { NodeOperationError } from 'n8n-workflow';

import type { Job } from './service';
import { afterStop, call, hasEnded, imageItems, isStopped, pause } from './service';

const POLL_MS = { first: 500, longest: 10_000 };

type Operation = (context: IExecuteFunctions, item: number) => Promise<INodeExecutionData[]>;

export const operations: Record<string, Operation> = {
	'image.generate': async (context, item) => await submit(context, item, {}),
	'image.edit': async (context, item) => await submit(context, item, await inputImages(context, item)),
	'job.get': async (context, item) => asItem(await read(context, jobId(context, item)), item),
	'job.wait': async (context, item) => await results(context, await read(context, jobId(context, item)), item),
	'job.cancel': async (context, item) => asItem(await cancel(context, jobId(context, item)), item),
	'model.getAll': async (context, item) => {
		const models = await listModels(context);
		return models.map((model) => ({ json: model, pairedItem: { item } }));
	},
};

/** The models, or the engines of a service that does not list its models. */
export async function listModels(context: Parameters<typeof call>[0]): Promise<IDataObject[]> {
	const listed = await call<{ models?: IDataObject[] }>(context, 'GET', '/api/models', {}, [404]);
	if (listed.models !== undefined) return listed.models;
	const { backends } = await call<{ backends: IDataObject[] }>(context, 'GET', '/api/backends');
	return backends.map(({ name, model, status }) => ({ name: model, backend: name, state: status }));
}

async function submit(
	context: IExecuteFunctions,
	item: number,
	images: IDataObject,
): Promise<INodeExecutionData[]> {
	const body = { ...request(context, item), ...images };
	const headers = { 'Idempotency-Key': idempotencyKey(context, item) };
	const job = await call<Job>(context, 'POST', '/api/jobs', { body, headers });
	const waits = context.getNodeParameter('waitForImages', item) as boolean;
	return waits ? await results(context, job, item) : asItem(job, item);
}

/** Never the same twice, on no n8n, but the same when this node is tried again in its execution. */
function idempotencyKey(context: IExecuteFunctions, item: number): string {
	const run = context.evaluateExpression('{{ $runIndex }}', item);
	return `n8n-${digest([executionName(context), context.getNode().id, run, item])}`;
}

/** The label of all jobs of an execution, by which the workflow cancel.json finds them. */
function executionLabel(context: IExecuteFunctions): string {
	return `n8n ${context.getExecutionId()} ${digest(executionName(context)).slice(0, 12)}`;
}

function executionName(context: IExecuteFunctions): unknown[] {
	return [context.getInstanceId(), context.getWorkflow().id, context.getExecutionId()];
}

function digest(value: unknown[]): string {
	return createHash('sha256').update(JSON.stringify(value)).digest('hex');
}

function request(context: IExecuteFunctions, item: number): IDataObject {
	const { more, ...options } = context.getNodeParameter('options', item, {}) as IDataObject;
	const prompt = context.getNodeParameter('prompt', item) as string;
	const model = context.getNodeParameter('model', item) as string;
	delete options.maskProperty;
	return { prompt, label: executionLabel(context), ...choice(model), ...options, ...moreFields(context, item, more) };
}

function choice(model: string): IDataObject {
	if (model === '') return {};
	return model.startsWith('backend:') ? { backend: model.slice('backend:'.length) } : { model };
}

function moreFields(context: IExecuteFunctions, item: number, more: unknown): IDataObject {
	if (more === undefined || more === '') return {};
	try {
		return typeof more === 'string' ? (JSON.parse(more) as IDataObject) : (more as IDataObject);
	} catch {
		throw new NodeOperationError(context.getNode(), 'More Fields is not valid JSON', { itemIndex: item });
	}
}

async function inputImages(context: IExecuteFunctions, item: number): Promise<IDataObject> {
	const names = (context.getNodeParameter('imageProperties', item) as string).split(',');
	const image = await Promise.all(names.map(async (name) => await dataUrl(context, item, name.trim())));
	const mask = context.getNodeParameter('options.maskProperty', item, '') as string;
	return mask === '' ? { image } : { image, mask: await dataUrl(context, item, mask) };
}

async function dataUrl(context: IExecuteFunctions, item: number, name: string): Promise<string> {
	const { mimeType } = context.helpers.assertBinaryData(item, name);
	const bytes = await context.helpers.getBinaryDataBuffer(item, name);
	return `data:${mimeType};base64,${bytes.toString('base64')}`;
}

/** Wait for the end of a job and download its images. */
async function results(context: IExecuteFunctions, job: Job, item: number): Promise<INodeExecutionData[]> {
	const ended = await waitFor(context, job, item);
	if (ended.state === 'succeeded') {
		return await imageItems(context, ended, context.getNodeParameter('binaryProperty', item) as string, item);
	}
	const reason = ended.error?.detail ?? `The job was ${ended.state}`;
	throw new NodeOperationError(context.getNode(), reason, { itemIndex: item, description: `Job ${ended.id}` });
}

async function waitFor(context: IExecuteFunctions, job: Job, item: number): Promise<Job> {
	try {
		return await poll(context, job, item);
	} catch (error) {
		if (isStopped(context) && (context.getNodeParameter('cancelWhenStopped', item) as boolean)) {
			await cancel(afterStop(context), job.id);
		}
		throw new NodeOperationError(context.getNode(), error as Error, { itemIndex: item });
	}
}

async function poll(context: IExecuteFunctions, job: Job, item: number): Promise<Job> {
	const minutes = context.getNodeParameter('minutes', item) as number;
	const giveUpAt = Date.now() + minutes * 60_000;
	let current = job;
	for (let wait = POLL_MS.first; !hasEnded(current); wait = Math.min(wait * 1.5, POLL_MS.longest)) {
		await pause(context, wait);
		if (isStopped(context)) throw new NodeOperationError(context.getNode(), 'The execution was stopped');
		current = await read(context, job.id);
		if (Date.now() > giveUpAt && !hasEnded(current)) {
			const message = `The job ${job.id} is still ${current.state} after ${minutes} minutes`;
			throw new NodeOperationError(context.getNode(), message, { itemIndex: item });
		}
	}
	return current;
}

async function read(context: IExecuteFunctions, id: string): Promise<Job> {
	return await call<Job>(context, 'GET', `/api/jobs/${encodeURIComponent(id)}`);
}

async function cancel(context: IExecuteFunctions, id: string): Promise<Job> {
	return await call<Job>(context, 'DELETE', `/api/jobs/${encodeURIComponent(id)}`);
}

function jobId(context: IExecuteFunctions, item: number): string {
	return context.getNodeParameter('jobId', item) as string;
}

function asItem(job: Job, item: number): INodeExecutionData[] {
	return [{ json: job as unknown as IDataObject, pairedItem: { item } }];
}
