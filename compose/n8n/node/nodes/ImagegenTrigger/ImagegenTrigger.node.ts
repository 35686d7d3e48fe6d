import type {
	IDataObject,
	IHookFunctions,
	INodeType,
	INodeTypeDescription,
	IWebhookFunctions,
	IWebhookResponseData,
} from 'n8n-workflow';
import { NodeConnectionTypes } from 'n8n-workflow';

import type { Job } from '../Imagegen/service';
import { imageItems } from '../Imagegen/service';
import { isAuthentic } from './signature';

/** Ids of messages that were handled, to ignore repetitions. */
const REMEMBERED = 500;

export class ImagegenTrigger implements INodeType {
	description: INodeTypeDescription = {
		displayName: 'Imagegen Trigger',
		name: 'imagegenTrigger',
		icon: { light: 'file:../../icons/imagegen.svg', dark: 'file:../../icons/imagegen.dark.svg' },
		group: ['trigger'],
		version: 1,
		subtitle: '={{ $parameter["events"].join(", ") }}',
		description: 'Starts when a job of the image generation service has ended',
		defaults: { name: 'Imagegen Trigger' },
		inputs: [],
		outputs: [NodeConnectionTypes.Main],
		credentials: [{ name: 'imagegenApi', required: true }],
		webhooks: [{ name: 'default', httpMethod: 'POST', responseMode: 'onReceived', path: 'imagegen' }],
		properties: [
			{
				displayName:
					'Give the address above to jobs as webhook_url, and add it to SD_WEBHOOK_ALLOW. The credential needs the Webhook Secret.',
				name: 'notice',
				type: 'notice',
				default: '',
			},
			{
				displayName: 'Events',
				name: 'events',
				type: 'multiOptions',
				options: [
					{ name: 'Cancelled', value: 'job.cancelled' },
					{ name: 'Failed', value: 'job.failed' },
					{ name: 'Started', value: 'job.started' },
					{ name: 'Succeeded', value: 'job.succeeded' },
				],
				default: ['job.succeeded', 'job.failed', 'job.cancelled'],
				required: true,
			},
			{
				displayName: 'Download Images',
				name: 'download',
				type: 'boolean',
				default: true,
				description: 'Whether to output one item with its file for each image of a job that has succeeded',
			},
		],
	};

	/** Jobs name the address themselves: there is nothing to register. */
	webhookMethods = {
		default: {
			async checkExists(this: IHookFunctions): Promise<boolean> {
				return true;
			},
			async create(this: IHookFunctions): Promise<boolean> {
				return true;
			},
			async delete(this: IHookFunctions): Promise<boolean> {
				return true;
			},
		},
	};

	async webhook(this: IWebhookFunctions): Promise<IWebhookResponseData> {
		const { rawBody } = this.getRequestObject();
		const { webhookSecret } = await this.getCredentials<{ webhookSecret: string }>('imagegenApi');
		const headers = this.getHeaderData() as Record<string, unknown>;
		if (!isAuthentic(headers, rawBody ?? Buffer.alloc(0), webhookSecret, Date.now() / 1000)) {
			this.getResponseObject().status(401).json({ message: 'This message is not signed with the webhook secret.' });
			return { noWebhookResponse: true };
		}
		const { type, data } = this.getBodyData() as { type: string; data: unknown } & IDataObject;
		const wanted = (this.getNodeParameter('events') as string[]).includes(type);
		if (!wanted || isRepetition(this, String(headers['webhook-id']))) return {};
		const job = data as Job;
		if (job.state === 'succeeded' && (this.getNodeParameter('download') as boolean)) {
			return { workflowData: [await imageItems(this, job, 'data', 0)] };
		}
		return { workflowData: [[{ json: job as unknown as IDataObject }]] };
	}
}

function isRepetition(context: IWebhookFunctions, id: string): boolean {
	const memory = context.getWorkflowStaticData('node') as { ids?: string[] };
	const ids = memory.ids ?? [];
	if (ids.includes(id)) return true;
	memory.ids = [...ids, id].slice(-REMEMBERED);
	return false;
}
